/// The reader of request bodies: it scans text and is not a JSON parser.
///
/// What clients have to know of it, and what tests hold it to:
/// * a key counts only as `"key":` without space, and its first occurrence wins, also inside a nested object;
/// * of the escapes, only `\"`, `\\`, `\n`, `\r` and `\t` are understood; any other stays as it was written;
/// * a value of an unexpected type, or without an end, counts as missing.

import Blob "mo:core/Blob";
import List "mo:core/List";
import Text "mo:core/Text";
import VarArray "mo:core/VarArray";

import Json "json";

module {
  /// A stretch of a request body: bytes in [from, to).
  public type Span = { bytes : Blob; from : Nat; to : Nat };

  let QUOTE : Nat8 = 0x22;
  let BACKSLASH : Nat8 = 0x5c;
  let OPEN_BRACE : Nat8 = 0x7b;
  let CLOSE_BRACE : Nat8 = 0x7d;

  public func whole(bytes : Blob) : Span = { bytes; from = 0; to = bytes.size() };

  /// The text of a string field, or null when it is missing.
  public func string(span : Span, key : Text) : ?Text {
    let ?start = valueStart(span, key) else return null;
    stringAt(span, start);
  };

  /// The text of a string field, or `""` when it is missing.
  public func stringOrEmpty(span : Span, key : Text) : Text {
    switch (string(span, key)) { case (?text) text; case null "" };
  };

  /// Front matter: a string's text, or a nested object's own text unchanged, or `{}` when it is missing.
  public func frontmatter(span : Span) : Text {
    let ?start = valueStart(span, "frontmatter") else return "{}";
    if (start < span.to and span.bytes[start] == OPEN_BRACE) {
      switch (objectEnd(span, start)) {
        case (?end) slice(span.bytes, start, end);
        case null "{}";
      };
    } else {
      switch (stringAt(span, start)) { case (?text) text; case null "{}" };
    };
  };

  /// The objects of an array field, or null when there is no such array or it does not read to its end.
  public func objects(span : Span, key : Text) : ?List.List<Span> {
    let ?start = valueStart(span, key) else return null;
    if (start >= span.to or span.bytes[start] != 0x5b) return null;
    let found = List.empty<Span>();
    var at = skipSpace(span, start + 1);
    if (at < span.to and span.bytes[at] == 0x5d) return ?found;
    while (at < span.to and span.bytes[at] == OPEN_BRACE) {
      let ?end = objectEnd(span, at) else return null;
      List.add(found, { bytes = span.bytes; from = at; to = end });
      at := skipSpace(span, end);
      if (at >= span.to) return null;
      if (span.bytes[at] == 0x5d) return ?found;
      if (span.bytes[at] != 0x2c) return null;
      at := skipSpace(span, at + 1);
    };
    null;
  };

  /// Where the value of the first `"key":` starts.
  func valueStart(span : Span, key : Text) : ?Nat {
    let pattern = Text.encodeUtf8("\"" # key # "\":");
    let length = pattern.size();
    let { bytes; to } = span;
    var at = span.from;
    while (at + length <= to) {
      if (bytes[at] == QUOTE) {
        var matched = 1;
        while (matched < length and bytes[at + matched] == pattern[matched]) matched += 1;
        if (matched == length) return ?(at + length);
      };
      at += 1;
    };
    null;
  };

  func stringAt(span : Span, start : Nat) : ?Text {
    let { bytes; to } = span;
    if (start >= to or bytes[start] != QUOTE) return null;
    var at = start + 1;
    var understood = 0; // escapes that take two bytes in the request and one in the text
    while (at < to) {
      let byte = bytes[at];
      if (byte == QUOTE) {
        if (understood == 0) return ?slice(bytes, start + 1, at);
        return ?unescape(bytes, start + 1, at, at - start - 1 - understood : Nat);
      };
      if (byte == BACKSLASH) {
        at += 1;
        if (at < to and meaning(bytes[at]) != 0) understood += 1;
      };
      at += 1;
    };
    null;
  };

  /// What a letter after a backslash stands for, 0 when the escape is not understood.
  func meaning(letter : Nat8) : Nat8 {
    switch (letter) {
      case (0x22 or 0x5c) letter;
      case 0x6e 0x0a;
      case 0x72 0x0d;
      case 0x74 0x09;
      case _ 0;
    };
  };

  func unescape(bytes : Blob, from : Nat, to : Nat, size : Nat) : Text {
    let out = VarArray.repeat<Nat8>(BACKSLASH, size);
    var at = from;
    var put = 0;
    while (at < to) {
      let byte = bytes[at];
      if (byte != BACKSLASH) {
        out[put] := byte;
      } else {
        let meant = meaning(bytes[at + 1]);
        at += 1;
        if (meant != 0) {
          out[put] := meant;
        } else {
          put += 1; // the backslash stays, and so does what follows it
          out[put] := bytes[at];
        };
      };
      put += 1;
      at += 1;
    };
    Json.utf8(Blob.fromVarArray(out));
  };

  /// The end of the object that starts at `start`, braces inside strings not counted.
  func objectEnd(span : Span, start : Nat) : ?Nat {
    let { bytes; to } = span;
    var depth = 0;
    var inString = false;
    var at = start;
    while (at < to) {
      let byte = bytes[at];
      if (inString) {
        if (byte == BACKSLASH) at += 1 else if (byte == QUOTE) inString := false;
      } else if (byte == QUOTE) {
        inString := true;
      } else if (byte == OPEN_BRACE) {
        depth += 1;
      } else if (byte == CLOSE_BRACE) {
        depth -= 1 : Nat;
        if (depth == 0) return ?(at + 1);
      };
      at += 1;
    };
    null;
  };

  func skipSpace(span : Span, start : Nat) : Nat {
    var at = start;
    while (at < span.to and (span.bytes[at] == 0x20 or (span.bytes[at] >= 0x09 and span.bytes[at] <= 0x0d))) at += 1;
    at;
  };

  func slice(bytes : Blob, from : Nat, to : Nat) : Text {
    let out = VarArray.tabulate<Nat8>(to - from : Nat, func(offset) = bytes[from + offset]);
    Json.utf8(Blob.fromVarArray(out));
  };
};
