/// Requests and replies of the HTTP gateway's protocol: headers, paths, query parameters, error bodies.

import Char "mo:core/Char";
import Iter "mo:core/Iter";
import Nat32 "mo:core/Nat32";
import Text "mo:core/Text";

import Json "json";

module {
  public type Header = (Text, Text);

  public type Request = {
    method : Text;
    url : Text;
    headers : [Header];
    body : Blob;
  };

  public type Response = {
    status_code : Nat16;
    headers : [Header];
    body : Blob;
    upgrade : ?Bool;
  };

  /// What a route answers, before headers are added.
  public type Answer = { status : Nat16; json : Text };

  public func ok(json : Text) : Answer = { status = 200; json };

  public func error(status : Nat16, code : Text, message : Text) : Answer = {
    status;
    json = "{\"error\":" # Json.quote(message) # ",\"code\":\"" # code # "\"}";
  };

  public func badRequest(message : Text) : Answer = error(400, "BAD_REQUEST", message);

  public func notFound(what : Text) : Answer = error(404, "NOT_FOUND", what # " not found");

  public let JSON_TYPE : Header = ("content-type", "application/json");

  /// The answer as the gateway wants it; every reply is JSON, whatever its status.
  public func respond(answer : Answer, extraHeaders : [Header]) : Response {
    let headers = Iter.toArray(Iter.concat([JSON_TYPE].values(), extraHeaders.values()));
    { status_code = answer.status; headers; body = Text.encodeUtf8(answer.json); upgrade = null };
  };

  /// Ask the gateway to send the same request again as an update call.
  public func upgrade() : Response = { status_code = 200; headers = [JSON_TYPE]; body = ""; upgrade = ?true };

  /// The value of the first header of that name (given in lower case), names compared without regard to case.
  public func header(request : Request, name : Text) : ?Text {
    for ((candidate, value) in request.headers.values()) {
      if (Text.toLower(candidate) == name) return ?value;
    };
    null;
  };

  /// The path without query parameters and without one trailing slash.
  public func path(request : Request) : Text {
    let full = switch (Text.split(request.url, #char '?').next()) { case (?first) first; case null "" };
    switch (Text.stripEnd(full, #char '/')) { case (?stripped) stripped; case null full };
  };

  /// The value of the first query parameter of that name, as it was sent.
  public func parameter(request : Request, name : Text) : ?Text {
    let parts = Text.split(request.url, #char '?');
    ignore parts.next();
    let ?parameters = parts.next() else return null;
    for (field in Text.split(parameters, #char '&')) {
      switch (Text.stripStart(field, #text(name # "="))) {
        case (?value) return ?value;
        case null {};
      };
    };
    null;
  };

  /// Decode `%XX` byte by byte, each byte becoming the character of that number.
  ///
  /// This is the historical behaviour of the hub: for characters beyond ASCII, which take several bytes, the result
  /// differs from what was meant, so such notes cannot be addressed by path.
  public func percentDecoded(text : Text) : Text {
    if (not Text.contains(text, #char '%')) return text;
    let chars = Text.toArray(text);
    var decoded = "";
    var at = 0;
    while (at < chars.size()) {
      let code = if (chars[at] == '%' and at + 2 < chars.size()) hexPair(chars[at + 1], chars[at + 2]) else null;
      switch code {
        case (?value) { decoded #= Char.toText(Char.fromNat32(value)); at += 3 };
        case null { decoded #= Char.toText(chars[at]); at += 1 };
      };
    };
    decoded;
  };

  func hexPair(high : Char, low : Char) : ?Nat32 {
    let ?upper = hexValue(high) else return null;
    let ?lower = hexValue(low) else return null;
    ?(upper * 16 + lower);
  };

  func hexValue(char : Char) : ?Nat32 {
    let code = Char.toNat32(char);
    if (char >= '0' and char <= '9') ?(code - 48)
    else if (char >= 'a' and char <= 'f') ?(code - 87)
    else if (char >= 'A' and char <= 'F') ?(code - 55)
    else null;
  };
};
