/// The attestation ledger: records are appended by authorised callers and never changed.

import Array "mo:core/Array";
import List "mo:core/List";
import Map "mo:core/Map";
import Nat "mo:core/Nat";
import Principal "mo:core/Principal";
import Runtime "mo:core/Runtime";
import Set "mo:core/Set";
import Text "mo:core/Text";
import Time "mo:core/Time";

import Http "http";
import Json "json";
import Moment "moment";

persistent actor Attestation {
  public type Record = {
    id : Text;
    action : Text;
    path : Text;
    timestamp : Text;
    content_hash : Text;
    sig : Text;
    /// Place in the ledger, from 1 without gaps.
    seq : Nat;
    /// When the ledger took the record.
    stored_at : Text;
  };

  public type Entry = {
    id : Text;
    action : Text;
    path : Text;
    timestamp : Text;
    content_hash : Text;
    sig : Text;
  };

  let records = List.empty<Record>();
  let byId = Map.empty<Text, Record>();
  let writers = Set.empty<Principal>();

  transient let DEFAULT_PAGE = 20;
  transient let MAX_PAGE = 100;

  /// Let a principal write. Only controllers may; they can always write themselves.
  public shared ({ caller }) func authorize(writer : Principal) : async () {
    if (not Principal.isController(caller)) Runtime.trap("only a controller may do this");
    Set.add(writers, Principal.compare, writer);
  };

  /// Append a record. Traps when the caller may not write or the id is taken.
  public shared ({ caller }) func storeAttestation(entry : Entry) : async Record {
    if (not Principal.isController(caller) and not Set.contains(writers, Principal.compare, caller)) {
      Runtime.trap("the caller may not write attestations");
    };
    if (Map.containsKey(byId, Text.compare, entry.id)) Runtime.trap("an attestation of this id is already stored");
    let record = { entry with seq = List.size(records) + 1; stored_at = Moment.iso(Time.now()) };
    List.add(records, record);
    Map.add(byId, Text.compare, record.id, record);
    record;
  };

  /// Records by age, oldest first; a limit of 0 means 20, and no page holds more than 100.
  public query func listAttestations(offset : Nat, limit : Nat) : async { records : [Record]; total : Nat } {
    let total = List.size(records);
    let from = Nat.min(offset, total);
    let size = Nat.min(if (limit == 0) DEFAULT_PAGE else Nat.min(limit, MAX_PAGE), total - from : Nat);
    { records = Array.tabulate<Record>(size, func at = List.at(records, from + at)); total };
  };

  public query func getStats() : async { total : Nat; next_seq : Nat } {
    { total = List.size(records); next_seq = List.size(records) + 1 };
  };

  public query func getAttestation(id : Text) : async ?Record {
    Map.get(byId, Text.compare, id);
  };

  public query func http_request(request : Http.Request) : async Http.Response {
    Http.respond(if (request.method == "GET") read(Http.path(request)) else Http.notFound("route"), []);
  };

  func read(path : Text) : Http.Answer {
    switch path {
      case "/health" return Http.ok("{\"ok\":true,\"canister\":\"attestation\"}");
      case "/stats" {
        let total = List.size(records);
        return Http.ok("{\"total\":" # Nat.toText(total) # ",\"next_seq\":" # Nat.toText(total + 1) # "}");
      };
      case _ {};
    };
    let ?encoded = Text.stripStart(path, #text "/attest/") else return Http.notFound("route");
    switch (Map.get(byId, Text.compare, Http.percentDecoded(encoded))) {
      case (?record) Http.ok(json(record));
      case null Http.notFound("attestation");
    };
  };

  func json(record : Record) : Text = (
    "{\"id\":" # Json.quote(record.id) # ",\"action\":" # Json.quote(record.action) # ",\"path\":" # Json.quote(record.path)
    # ",\"timestamp\":" # Json.quote(record.timestamp) # ",\"content_hash\":" # Json.quote(record.content_hash)
    # ",\"sig\":" # Json.quote(record.sig) # ",\"seq\":" # Nat.toText(record.seq)
    # ",\"stored_at\":" # Json.quote(record.stored_at) # "}"
  );
};
