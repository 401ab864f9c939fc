/// The hub: notes and proposals of many tenants behind the HTTP interface of a Knowtation hub.
///
/// This file holds state, secrets and routes. Everything is kept in the heap (enhanced orthogonal persistence);
/// stable memory stays empty. Reads are queries. POST and DELETE are refused by the query side with `upgrade`, whereupon
/// the gateway repeats them as an update call.

import Int "mo:core/Int";
import Iter "mo:core/Iter";
import List "mo:core/List";
import Map "mo:core/Map";
import Nat "mo:core/Nat";
import Principal "mo:core/Principal";
import Runtime "mo:core/Runtime";
import Text "mo:core/Text";
import Time "mo:core/Time";

import Http "http";
import Json "json";
import Proposals "proposals";
import Scan "scan";
import Seeding "seeding";
import Vaults "vaults";

persistent actor Hub {
  let tenants : Vaults.Tenants = Map.empty();
  let shelves : Proposals.Shelves = Map.empty();

  /// The keys of `tenants` in order, so that a page of the index is cut out without walking to it.
  var directory : [Text] = [];

  var operatorExportSecret = "";
  var gatewayAuthSecret = "";
  var corsOrigin = "";

  transient let API = "/api/v1/";
  transient let MAX_BATCH = 100;
  transient let MAX_PAGE = 500;
  transient let DEFAULT_PAGE = 100;

  // The gateway's two entry points

  public query func http_request(request : Http.Request) : async Http.Response {
    switch (refused(request)) {
      case (?refusal) return refusal;
      case null {};
    };
    switch (request.method) {
      case ("POST" or "DELETE") Http.upgrade();
      case "OPTIONS" Http.respond({ status = 204; json = "" }, corsHeaders());
      case "GET" Http.respond(read(request), corsHeaders());
      case _ Http.respond(Http.notFound("route"), corsHeaders());
    };
  };

  public func http_request_update(request : Http.Request) : async Http.Response {
    switch (refused(request)) {
      case (?refusal) return refusal;
      case null {};
    };
    let answer = switch (request.method) {
      case "POST" write(request);
      case "DELETE" remove(request);
      case _ Http.notFound("route");
    };
    updateDirectory();
    Http.respond(answer, corsHeaders());
  };

  // Settings and seeding, for controllers only

  public shared ({ caller }) func admin_set_operator_export_secret(secret : Text) : async () {
    requireController(caller);
    operatorExportSecret := secret;
  };

  public shared ({ caller }) func admin_set_gateway_auth_secret(secret : Text) : async () {
    requireController(caller);
    gatewayAuthSecret := secret;
  };

  public shared ({ caller }) func admin_set_cors_origin(origin : Text) : async () {
    requireController(caller);
    corsOrigin := origin;
  };

  /// Plant vaults, notes and proposals as they are, unchecked.
  public shared ({ caller }) func admin_seed_vaults(seeds : [Seeding.VaultSeed]) : async () {
    requireController(caller);
    Seeding.plant(tenants, shelves, seeds);
    updateDirectory();
  };

  /// Give the notes of one vault to other tenants too.
  public shared ({ caller }) func admin_seed_copies(user_id : Text, vault_id : Text, to_user_ids : [Text]) : async () {
    requireController(caller);
    Seeding.copy(tenants, user_id, vault_id, to_user_ids);
    updateDirectory();
  };

  func requireController(caller : Principal) {
    if (not Principal.isController(caller)) Runtime.trap("only a controller may do this");
  };

  /// Tenants are never taken away, so their number tells whether one was added.
  func updateDirectory() {
    if (Map.size(tenants) != directory.size()) directory := Iter.toArray(Map.keys(tenants));
  };

  // What holds for every request

  /// The refusal of a request that lacks the gateway's secret. It comes before everything else and without CORS headers.
  func refused(request : Http.Request) : ?Http.Response {
    if (gatewayAuthSecret == "" or request.method == "OPTIONS") return null;
    if (request.method == "GET" and Http.path(request) == "/health") return null;
    if (Http.header(request, "x-gateway-auth") == ?gatewayAuthSecret) return null;
    ?Http.respond(Http.error(403, "GATEWAY_AUTH_REQUIRED", "this hub is reached through its gateway"), []);
  };

  func corsHeaders() : [Http.Header] {
    if (corsOrigin == "") return [];
    [
      ("access-control-allow-origin", corsOrigin),
      ("access-control-allow-methods", "GET, POST, DELETE, OPTIONS"),
      ("access-control-allow-headers", "Accept, Content-Type, X-Actor-Id, X-User-Id, X-Vault-Id"),
    ];
  };

  /// The tenant asked about. A header without a value says as little as no header.
  func user(request : Http.Request) : Text {
    switch (Http.header(request, "x-user-id")) {
      case (null or ?"") "default";
      case (?id) id;
    };
  };

  func vault(request : Http.Request) : Text {
    switch (Http.header(request, "x-vault-id")) {
      case (?id) Vaults.cleanId(id);
      case null Vaults.DEFAULT;
    };
  };

  /// What follows `/api/v1/` in the path.
  func route(request : Http.Request) : ?Text = Text.stripStart(Http.path(request), #text API);

  // Reads

  func read(request : Http.Request) : Http.Answer {
    if (Http.path(request) == "/health") return Http.ok("{\"ok\":true}");
    let ?path = route(request) else return Http.notFound("route");
    switch path {
      case "operator/export" index(request);
      case "vaults" Http.ok("{\"vaults\":" # Vaults.vaultListJson(tenants, user(request)) # "}");
      case "export" Http.ok("{\"notes\":" # Vaults.listJson(notesOf(request)) # "}");
      case "notes" {
        let notes = notesOf(request);
        Http.ok("{\"notes\":" # Vaults.listJson(notes) # ",\"total\":" # Nat.toText(Vaults.count(notes)) # "}");
      };
      case "proposals" Http.ok(Proposals.listJson(Proposals.shelf(shelves, user(request), vault(request))));
      case _ readOne(request, path);
    };
  };

  func readOne(request : Http.Request, path : Text) : Http.Answer {
    switch (Text.stripStart(path, #text "notes/")) {
      case (?encoded) {
        let ?notes = notesOf(request) else return Http.notFound("note");
        switch (Map.get(notes, Text.compare, Http.percentDecoded(encoded))) {
          case (?note) return Http.ok(note);
          case null return Http.notFound("note");
        };
      };
      case null {};
    };
    switch (Text.stripStart(path, #text "proposals/")) {
      case (?encoded) {
        switch (Proposals.find(shelves, user(request), vault(request), Http.percentDecoded(encoded))) {
          case (?proposal) Http.ok(Proposals.fullJson(proposal));
          case null Http.notFound("proposal");
        };
      };
      case null Http.notFound("route");
    };
  };

  func notesOf(request : Http.Request) : ?Vaults.Notes = Vaults.find(tenants, user(request), vault(request));

  /// A page of the tenants that own a vault map, for who knows the operator's secret.
  func index(request : Http.Request) : Http.Answer {
    if (operatorExportSecret == "") return Http.error(503, "SERVICE_UNAVAILABLE", "no operator export secret is configured");
    if (Http.header(request, "x-operator-export-key") != ?operatorExportSecret) {
      return Http.error(401, "UNAUTHORIZED", "operator key is missing or wrong");
    };
    let total = directory.size();
    let cursor = switch (number(request, "cursor")) { case (?given) Nat.min(given, total); case null 0 };
    let limit = switch (number(request, "limit")) {
      case (?given) Nat.max(1, Nat.min(given, MAX_PAGE));
      case null DEFAULT_PAGE;
    };
    let end = Nat.min(cursor + limit, total);
    var ids = "";
    var at = cursor;
    while (at < end) {
      ids #= (if (at == cursor) "" else ",") # Json.quote(directory[at]);
      at += 1;
    };
    let done = end == total;
    Http.ok(
      "{\"format_version\":3,\"kind\":\"knowtation-operator-user-index\",\"exported_at_ns\":\"" # Int.toText(Time.now())
      # "\",\"user_ids\":[" # ids # "],\"next_cursor\":\"" # (if done "" else Nat.toText(end))
      # "\",\"done\":" # (if done "true" else "false") # "}"
    );
  };

  /// A query parameter that is digits only; anything else counts as absent.
  func number(request : Http.Request, name : Text) : ?Nat {
    switch (Http.parameter(request, name)) { case (?text) Nat.fromText(text); case null null };
  };

  // Writes

  func write(request : Http.Request) : Http.Answer {
    let ?path = route(request) else return Http.notFound("route");
    let ?text = Text.decodeUtf8(request.body) else return Http.badRequest("request body is not UTF-8");
    let body = Scan.whole(request.body);
    switch path {
      case "notes" writeNote(request, body, text);
      case "notes/batch" writeBatch(request, body);
      case "notes/delete-by-prefix" deleteByPrefix(request, body);
      case "proposals" Proposals.create(shelves, proposalRequest(request, body));
      case _ proposalStep(request, path, body);
    };
  };

  func proposalRequest(request : Http.Request, body : Scan.Span) : Proposals.Request = {
    user = user(request);
    vault = vault(request);
    now = Time.now();
    body;
  };

  func proposalStep(request : Http.Request, path : Text, body : Scan.Span) : Http.Answer {
    let ?rest = Text.stripStart(path, #text "proposals/") else return Http.notFound("route");
    let parts = Iter.toArray(Text.split(rest, #char '/'));
    if (parts.size() != 2) return Http.notFound("route");
    let id = Http.percentDecoded(parts[0]);
    let asked = proposalRequest(request, body);
    switch (parts[1]) {
      case "enrich" Proposals.enrich(shelves, asked, id);
      case "review-hints" Proposals.hint(shelves, asked, id);
      case "evaluation" Proposals.evaluate(shelves, asked, id);
      case "discard" Proposals.discard(shelves, asked, id);
      case "approve" Proposals.approve(shelves, tenants, asked, id);
      case _ Http.notFound("route");
    };
  };

  func writeNote(request : Http.Request, body : Scan.Span, text : Text) : Http.Answer {
    let path = Scan.stringOrEmpty(body, "path");
    if (path == "") return Http.badRequest("path is required");
    // A request without a body field is itself what gets stored: this has always been so and clients know it.
    let content = switch (Scan.string(body, "body")) { case (?given) given; case null text };
    Vaults.put(Vaults.open(tenants, user(request), vault(request)), path, Scan.frontmatter(body), content);
    Http.ok("{\"path\":" # Json.quote(path) # ",\"written\":true}");
  };

  func writeBatch(request : Http.Request, body : Scan.Span) : Http.Answer {
    let ?items = Scan.objects(body, "notes") else return Http.badRequest("notes must be an array of objects");
    if (List.size(items) > MAX_BATCH) return Http.badRequest("a batch holds at most 100 notes");
    for (item in List.values(items)) {
      if (Scan.stringOrEmpty(item, "path") == "") return Http.badRequest("every note needs a path");
    };
    if (List.size(items) > 0) {
      let notes = Vaults.open(tenants, user(request), vault(request));
      for (item in List.values(items)) {
        Vaults.put(notes, Scan.stringOrEmpty(item, "path"), Scan.frontmatter(item), Scan.stringOrEmpty(item, "body"));
      };
    };
    Http.ok("{\"imported\":" # Nat.toText(List.size(items)) # ",\"written\":true}");
  };

  func deleteByPrefix(request : Http.Request, body : Scan.Span) : Http.Answer {
    let prefix = Text.trimEnd(Scan.stringOrEmpty(body, "path_prefix"), #char '/');
    if (prefix == "") return Http.badRequest("path_prefix is required");
    for (segment in Text.split(prefix, #char '/')) {
      if (segment == "..") return Http.badRequest("path_prefix must not contain .. segments");
    };
    let removed = switch (notesOf(request)) {
      case (?notes) Vaults.removeUnder(notes, prefix);
      case null List.empty<Text>();
    };
    let discarded = Proposals.discardUnder(shelves, proposalRequest(request, body), prefix);
    let paths = Text.join(Iter.map(List.values(removed), Json.quote), ",");
    Http.ok(
      "{\"deleted\":" # Nat.toText(List.size(removed)) # ",\"paths\":[" # paths # "],\"proposals_discarded\":" # Nat.toText(discarded) # "}"
    );
  };

  func remove(request : Http.Request) : Http.Answer {
    let ?path = route(request) else return Http.notFound("route");
    switch (Text.stripStart(path, #text "notes/")) {
      case (?encoded) return removeNote(request, Http.percentDecoded(encoded));
      case null {};
    };
    switch (Text.stripStart(path, #text "vaults/")) {
      case (?encoded) removeVault(request, Vaults.cleanId(Http.percentDecoded(encoded)));
      case null Http.notFound("route");
    };
  };

  func removeNote(request : Http.Request, path : Text) : Http.Answer {
    let ?notes = notesOf(request) else return Http.notFound("note");
    if (not Map.delete(notes, Text.compare, path)) return Http.notFound("note");
    Http.ok("{\"path\":" # Json.quote(path) # ",\"deleted\":true}");
  };

  func removeVault(request : Http.Request, id : Text) : Http.Answer {
    if (id == Vaults.DEFAULT) return Http.badRequest("the vault default cannot be deleted");
    let hadNotes = switch (Map.get(tenants, Text.compare, user(request))) {
      case (?vaults) Map.delete(vaults, Text.compare, id);
      case null false;
    };
    let proposals = Proposals.removeVault(shelves, user(request), id);
    if (not hadNotes and proposals == 0) return Http.notFound("vault");
    Http.ok(
      "{\"ok\":true,\"deleted_vault_id\":" # Json.quote(id) # ",\"proposals_removed\":" # Nat.toText(proposals) # "}"
    );
  };
};
