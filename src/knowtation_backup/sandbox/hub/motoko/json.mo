/// JSON as text: escaping what goes into a reply, and judging texts that claim to be JSON.
///
/// Replies are put together from texts that were escaped once, when they were written. A `#` of two long texts costs
/// the same whatever their length, so a reply of megabytes is assembled in few instructions per note.

import Blob "mo:core/Blob";
import Char "mo:core/Char";
import Nat64 "mo:core/Nat64";
import Nat8 "mo:core/Nat8";
import Runtime "mo:core/Runtime";
import Text "mo:core/Text";
import VarArray "mo:core/VarArray";

module {
  /// Nesting beyond this counts as malformed, so that hostile input cannot exhaust the stack.
  let MAX_DEPTH = 200;

  /// A text in the form it has between the quotation marks of a JSON string.
  ///
  /// Control characters become `\n`, `\r`, `\t` or `\u00XX`; everything else stays raw UTF-8.
  public func escape(text : Text) : Text {
    let raw = Text.encodeUtf8(text);
    let size = Nat64.fromNat(raw.size());
    var grown = size;
    var at : Nat64 = 0;
    while (at < size) {
      let byte = raw[Nat64.toNat(at)];
      if (byte < 0x20) {
        grown +%= (if (byte == 0x0a or byte == 0x0d or byte == 0x09) 1 else 5);
      } else if (byte == 0x22 or byte == 0x5c) {
        grown +%= 1;
      };
      at +%= 1;
    };
    if (grown == size) return text;

    let out = VarArray.repeat<Nat8>(0x5c, Nat64.toNat(grown)); // a backslash wherever nothing else is put
    var to = 0;
    at := 0;
    while (at < size) {
      let byte = raw[Nat64.toNat(at)];
      at +%= 1;
      if (byte >= 0x20 and byte != 0x22 and byte != 0x5c) {
        out[to] := byte;
        to += 1;
      } else {
        switch (byte) {
          case (0x22 or 0x5c) { out[to + 1] := byte; to += 2 };
          case 0x0a { out[to + 1] := 0x6e; to += 2 };
          case 0x0d { out[to + 1] := 0x72; to += 2 };
          case 0x09 { out[to + 1] := 0x74; to += 2 };
          case _ {
            out[to + 1] := 0x75;
            out[to + 2] := 0x30;
            out[to + 3] := 0x30;
            out[to + 4] := hexDigit(byte / 16);
            out[to + 5] := hexDigit(byte % 16);
            to += 6;
          };
        };
      };
    };
    utf8(Blob.fromVarArray(out));
  };

  /// A text as a complete JSON string.
  public func quote(text : Text) : Text = "\"" # escape(text) # "\"";

  /// Bytes known to be UTF-8 as text.
  public func utf8(bytes : Blob) : Text {
    switch (Text.decodeUtf8(bytes)) {
      case (?text) text;
      case null Runtime.trap("bytes cut at a character boundary are not UTF-8");
    };
  };

  /// The first `limit` characters.
  public func cut(text : Text, limit : Nat) : Text {
    if (Text.encodeUtf8(text).size() <= limit) return text; // a character takes at least one byte
    var kept = "";
    var count = 0;
    for (char in text.chars()) {
      if (count == limit) return kept;
      kept #= Char.toText(char);
      count += 1;
    };
    kept;
  };

  /// Whether the text is exactly one JSON array.
  public func isArray(text : Text) : Bool = isValue(Text.encodeUtf8(text), 0x5b);

  /// Whether the text is exactly one JSON object.
  public func isObject(text : Text) : Bool = isValue(Text.encodeUtf8(text), 0x7b);

  func isValue(bytes : Blob, opening : Nat8) : Bool {
    let parser = Parser(bytes);
    parser.space();
    parser.next() == opening and parser.value(0) and parser.atEnd();
  };

  func hexDigit(value : Nat8) : Nat8 = if (value < 10) 0x30 + value else 0x57 + value;

  func isHex(byte : Nat8) : Bool = isDigit(byte) or (byte >= 0x41 and byte <= 0x46) or (byte >= 0x61 and byte <= 0x66);

  func isDigit(byte : Nat8) : Bool = byte >= 0x30 and byte <= 0x39;

  /// A recogniser of RFC 8259 JSON; each method advances and says whether the grammar was met.
  class Parser(bytes : Blob) {
    var at = 0;

    /// The byte at the current place, 0 past the end (no token starts with NUL).
    public func next() : Nat8 = if (at < bytes.size()) bytes[at] else 0;

    public func space() {
      loop {
        switch (next()) {
          case (0x20 or 0x09 or 0x0a or 0x0d) at += 1;
          case _ return;
        };
      };
    };

    public func atEnd() : Bool {
      space();
      at == bytes.size();
    };

    public func value(depth : Nat) : Bool {
      if (depth > MAX_DEPTH) return false;
      space();
      switch (next()) {
        case 0x7b members(0x7d, true, depth);
        case 0x5b members(0x5d, false, depth);
        case 0x22 string();
        case 0x74 word("true");
        case 0x66 word("false");
        case 0x6e word("null");
        case _ number();
      };
    };

    func take(byte : Nat8) : Bool {
      if (next() != byte) return false;
      at += 1;
      true;
    };

    func members(closing : Nat8, keyed : Bool, depth : Nat) : Bool {
      at += 1;
      space();
      if (take(closing)) return true;
      loop {
        space();
        if (keyed) {
          if (not string()) return false;
          space();
          if (not take(0x3a)) return false;
        };
        if (not value(depth + 1)) return false;
        space();
        if (take(closing)) return true;
        if (not take(0x2c)) return false;
      };
    };

    func string() : Bool {
      if (not take(0x22)) return false;
      while (at < bytes.size()) {
        let byte = bytes[at];
        at += 1;
        if (byte == 0x22) return true;
        if (byte < 0x20) return false;
        if (byte == 0x5c) {
          let escaped = next();
          at += 1;
          switch (escaped) {
            case (0x22 or 0x5c or 0x2f or 0x62 or 0x66 or 0x6e or 0x72 or 0x74) {};
            case 0x75 {
              for (_ in [1, 2, 3, 4].values()) {
                if (not isHex(next())) return false;
                at += 1;
              };
            };
            case _ return false;
          };
        };
      };
      false;
    };

    func word(expected : Text) : Bool {
      for (byte in Text.encodeUtf8(expected).values()) {
        if (not take(byte)) return false;
      };
      true;
    };

    func digits() : Bool {
      if (not isDigit(next())) return false;
      while (isDigit(next())) at += 1;
      true;
    };

    func number() : Bool {
      ignore take(0x2d);
      if (not take(0x30) and not digits()) return false;
      if (take(0x2e) and not digits()) return false;
      if (take(0x65) or take(0x45)) {
        if (not take(0x2b)) ignore take(0x2d);
        return digits();
      };
      true;
    };
  };
};
