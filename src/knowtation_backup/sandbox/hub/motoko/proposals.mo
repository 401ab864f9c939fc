/// Proposals of all tenants: how they are kept, found and shown, and the steps of their life.
///
/// Texts are kept escaped, as replies carry them between quotation marks; `id`, `path` and `vault` are kept raw because
/// they are compared. `suggestedLabels` and `suggestedFrontmatter` are JSON and enter replies unchanged: data stored
/// before these were checked can therefore make the reply of one proposal malformed.

import Int "mo:core/Int";
import List "mo:core/List";
import Map "mo:core/Map";
import Nat "mo:core/Nat";
import Text "mo:core/Text";

import Http "http";
import Json "json";
import Moment "moment";
import Scan "scan";
import Vaults "vaults";

module {
  public type Proposal = {
    id : Text;
    path : Text;
    vault : Text; // as stored, possibly blank
    intent : Text;
    baseStateId : Text;
    createdAt : Text;
    reviewQueue : Text;
    reviewSeverity : Text;
    autoFlagReasons : Text;
    body : Text;
    frontmatter : Text;
    var status : Text;
    var externalRef : Text;
    var updatedAt : Text;
    var evaluationStatus : Text;
    var evaluationGrade : Text;
    var evaluatedBy : Text;
    var evaluatedAt : Text;
    var evaluationChecklist : Text;
    var evaluationComment : Text;
    var evaluationWaiver : ?Text;
    var reviewHints : Text;
    var reviewHintsAt : Text;
    var reviewHintsModel : Text;
    var assistantNotes : Text;
    var assistantModel : Text;
    var assistantAt : Text;
    var suggestedLabels : Text;
    var suggestedFrontmatter : Text;
  };

  /// The proposals of one vault in order of creation, and for each id the first that has it:
  /// two made in the same round of consensus carry the same id.
  public type Shelf = { all : List.List<Proposal>; first : Map.Map<Text, Proposal> };

  /// Tenant, vault, proposals.
  public type Shelves = Map.Map<Text, Map.Map<Text, Shelf>>;

  /// Who asks, about which vault, when (nanoseconds), with what request body.
  public type Request = { user : Text; vault : Text; now : Int; body : Scan.Span };

  public func shelf(shelves : Shelves, user : Text, vault : Text) : ?Shelf {
    let ?ofTenant = Map.get(shelves, Text.compare, user) else return null;
    Map.get(ofTenant, Text.compare, vault);
  };

  /// Keep a proposal in a vault of a tenant; `vault` is where it is found, whatever its own field says.
  public func add(shelves : Shelves, user : Text, vault : Text, proposal : Proposal) {
    let ofTenant = switch (Map.get(shelves, Text.compare, user)) {
      case (?existing) existing;
      case null {
        let fresh = Map.empty<Text, Shelf>();
        Map.add(shelves, Text.compare, user, fresh);
        fresh;
      };
    };
    let place = switch (Map.get(ofTenant, Text.compare, vault)) {
      case (?existing) existing;
      case null {
        let fresh = { all = List.empty<Proposal>(); first = Map.empty<Text, Proposal>() };
        Map.add(ofTenant, Text.compare, vault, fresh);
        fresh;
      };
    };
    List.add(place.all, proposal);
    if (not Map.containsKey(place.first, Text.compare, proposal.id)) {
      Map.add(place.first, Text.compare, proposal.id, proposal);
    };
  };

  /// Take away all proposals of a vault; how many there were.
  public func removeVault(shelves : Shelves, user : Text, vault : Text) : Nat {
    let ?ofTenant = Map.get(shelves, Text.compare, user) else return 0;
    let ?removed = Map.take(ofTenant, Text.compare, vault) else return 0;
    List.size(removed.all);
  };

  public func find(shelves : Shelves, user : Text, vault : Text, id : Text) : ?Proposal {
    let ?place = shelf(shelves, user, vault) else return null;
    Map.get(place.first, Text.compare, id);
  };

  /// The proposal in the vault asked about, else in any vault of the tenant, with whether it was the vault asked about.
  func findAnywhere(shelves : Shelves, request : Request, id : Text) : ?(Proposal, Bool) {
    switch (find(shelves, request.user, request.vault, id)) {
      case (?own) return ?(own, true);
      case null {};
    };
    let ?ofTenant = Map.get(shelves, Text.compare, request.user) else return null;
    for (place in Map.values(ofTenant)) {
      switch (Map.get(place.first, Text.compare, id)) {
        case (?other) return ?(other, false);
        case null {};
      };
    };
    null;
  };

  // Showing

  func stubFields(p : Proposal) : Text = (
    "{\"proposal_id\":" # Json.quote(p.id) # ",\"path\":" # Json.quote(p.path) # ",\"status\":\"" # p.status
    # "\",\"intent\":\"" # p.intent # "\",\"base_state_id\":\"" # p.baseStateId # "\",\"external_ref\":\"" # p.externalRef
    # "\",\"vault_id\":" # Json.quote(p.vault) # ",\"created_at\":\"" # p.createdAt # "\",\"updated_at\":\"" # p.updatedAt
    # "\",\"evaluation_status\":\"" # p.evaluationStatus # "\",\"evaluation_grade\":\"" # p.evaluationGrade
    # "\",\"evaluated_by\":\"" # p.evaluatedBy # "\",\"evaluated_at\":\"" # p.evaluatedAt
    # "\",\"review_queue\":\"" # p.reviewQueue # "\",\"review_severity\":\"" # p.reviewSeverity
    # "\",\"auto_flag_reasons_json\":\"" # p.autoFlagReasons # "\""
  );

  public func fullJson(p : Proposal) : Text {
    let waiver = switch (p.evaluationWaiver) { case (?escaped) "\"" # escaped # "\""; case null "null" };
    stubFields(p) # ",\"body\":\"" # p.body # "\",\"frontmatter\":\"" # p.frontmatter
    # "\",\"evaluation_checklist\":\"" # p.evaluationChecklist # "\",\"evaluation_comment\":\"" # p.evaluationComment
    # "\",\"evaluation_waiver\":" # waiver # ",\"review_hints\":\"" # p.reviewHints
    # "\",\"review_hints_at\":\"" # p.reviewHintsAt # "\",\"review_hints_model\":\"" # p.reviewHintsModel
    # "\",\"assistant_notes\":\"" # p.assistantNotes # "\",\"assistant_model\":\"" # p.assistantModel
    # "\",\"assistant_at\":\"" # p.assistantAt # "\",\"suggested_labels\":" # p.suggestedLabels
    # ",\"assistant_suggested_frontmatter\":" # p.suggestedFrontmatter # "}";
  };

  public func listJson(place : ?Shelf) : Text {
    let ?some = place else return "{\"proposals\":[],\"total\":0}";
    var list = "{\"proposals\":[";
    var separator = "";
    for (proposal in List.values(some.all)) {
      list #= separator # stubFields(proposal) # "}";
      separator := ",";
    };
    list # "],\"total\":" # Nat.toText(List.size(some.all)) # "}";
  };

  // Steps

  /// A new proposal; its id is the clock's.
  public func create(shelves : Shelves, request : Request) : Http.Answer {
    let { body; now; vault } = request;
    let path = Scan.stringOrEmpty(body, "path");
    if (path == "") return Http.badRequest("path is required");
    let field = func(key : Text) : Text = Json.escape(Scan.stringOrEmpty(body, key));
    let moment = Moment.iso(now);
    let reasons = field("auto_flag_reasons_json");
    let proposal : Proposal = {
      id = "prop-" # Int.toText(now);
      path;
      vault;
      intent = field("intent");
      baseStateId = field("base_state_id");
      createdAt = moment;
      reviewQueue = field("review_queue");
      reviewSeverity = field("review_severity");
      autoFlagReasons = if (reasons == "") "[]" else reasons;
      body = field("body");
      frontmatter = Json.escape(Scan.frontmatter(body));
      var status = "proposed";
      var externalRef = field("external_ref");
      var updatedAt = moment;
      var evaluationStatus = if (Scan.stringOrEmpty(body, "evaluation_status") == "pending") "pending" else "none";
      var evaluationGrade = "";
      var evaluatedBy = "";
      var evaluatedAt = "";
      var evaluationChecklist = "[]";
      var evaluationComment = "";
      var evaluationWaiver = null;
      var reviewHints = "";
      var reviewHintsAt = "";
      var reviewHintsModel = "";
      var assistantNotes = "";
      var assistantModel = "";
      var assistantAt = "";
      var suggestedLabels = "[]";
      var suggestedFrontmatter = "{}";
    };
    add(shelves, request.user, vault, proposal);
    Http.ok("{\"proposal_id\":\"" # proposal.id # "\",\"path\":" # Json.quote(path) # ",\"status\":\"proposed\"}");
  };

  /// What an assistant adds; texts over their limit are cut or refused, JSON of the wrong form becomes empty.
  public func enrich(shelves : Shelves, request : Request, id : Text) : Http.Answer {
    let ?(proposal, own) = findAnywhere(shelves, request, id) else return Http.notFound("proposal");
    if (not own) return Http.error(403, "FORBIDDEN", "proposal belongs to another vault");
    if (proposal.status != "proposed") return notOpen(proposal);
    let labels = Scan.stringOrEmpty(request.body, "suggested_labels_json");
    let frontmatter = Scan.stringOrEmpty(request.body, "assistant_suggested_frontmatter_json");
    if (labels.size() > 4_000) return Http.badRequest("suggested_labels_json is longer than 4000 characters");
    if (frontmatter.size() > 14_000) {
      return Http.badRequest("assistant_suggested_frontmatter_json is longer than 14000 characters");
    };
    proposal.assistantNotes := Json.escape(Json.cut(Scan.stringOrEmpty(request.body, "assistant_notes"), 16_000));
    proposal.assistantModel := Json.escape(Json.cut(Scan.stringOrEmpty(request.body, "assistant_model"), 128));
    proposal.suggestedLabels := if (Json.isArray(labels)) labels else "[]";
    proposal.suggestedFrontmatter := if (Json.isObject(frontmatter)) frontmatter else "{}";
    proposal.assistantAt := Moment.iso(request.now);
    proposal.updatedAt := proposal.assistantAt;
    done(proposal);
  };

  public func hint(shelves : Shelves, request : Request, id : Text) : Http.Answer {
    let ?(proposal, _) = findAnywhere(shelves, request, id) else return Http.notFound("proposal");
    if (proposal.status != "proposed") return notOpen(proposal);
    proposal.reviewHints := Json.escape(Scan.stringOrEmpty(request.body, "review_hints"));
    proposal.reviewHintsModel := Json.escape(Scan.stringOrEmpty(request.body, "review_hints_model"));
    proposal.reviewHintsAt := Moment.iso(request.now);
    proposal.updatedAt := proposal.reviewHintsAt;
    done(proposal);
  };

  public func evaluate(shelves : Shelves, request : Request, id : Text) : Http.Answer {
    let ?(proposal, _) = findAnywhere(shelves, request, id) else return Http.notFound("proposal");
    if (proposal.status != "proposed") return notOpen(proposal);
    let checklist = Scan.stringOrEmpty(request.body, "evaluation_checklist_json");
    let comment = Scan.stringOrEmpty(request.body, "comment");
    let status = switch (Scan.stringOrEmpty(request.body, "outcome")) {
      case "pass" {
        if (Text.contains(checklist, #text "\"passed\":false")) {
          return Http.badRequest("an item of the checklist has not passed");
        };
        "passed";
      };
      case "fail" "failed";
      case "needs_changes" "needs_changes";
      case _ return Http.badRequest("outcome must be pass, fail or needs_changes");
    };
    if (status != "passed" and isBlank(comment)) return Http.badRequest("comment is required for this outcome");
    proposal.evaluationStatus := status;
    proposal.evaluationGrade := Json.escape(Scan.stringOrEmpty(request.body, "grade"));
    proposal.evaluationComment := Json.escape(comment);
    proposal.evaluationChecklist := if (checklist == "") "[]" else Json.escape(checklist);
    proposal.evaluatedBy := Json.escape(request.user);
    proposal.evaluatedAt := Moment.iso(request.now);
    proposal.updatedAt := proposal.evaluatedAt;
    Http.ok("{\"proposal_id\":" # Json.quote(proposal.id) # ",\"evaluation_status\":\"" # status # "\"}");
  };

  /// Close a proposal without effect. Answers the same for an id nobody knows.
  public func discard(shelves : Shelves, request : Request, id : Text) : Http.Answer {
    switch (findAnywhere(shelves, request, id)) {
      case (?(proposal, _)) {
        if (proposal.status == "approved") return notOpen(proposal);
        close(proposal, "discarded", request.now);
      };
      case null {};
    };
    Http.ok("{\"proposal_id\":" # Json.quote(id) # ",\"status\":\"discarded\"}");
  };

  /// Write the proposed note and a note that logs the approval.
  public func approve(shelves : Shelves, tenants : Vaults.Tenants, request : Request, id : Text) : Http.Answer {
    let ?(proposal, _) = findAnywhere(shelves, request, id) else return Http.notFound("proposal");
    if (proposal.status != "proposed") return notOpen(proposal);
    let reason = Scan.stringOrEmpty(request.body, "waiver_reason");
    switch (proposal.evaluationStatus) {
      case ("pending" or "failed" or "needs_changes") {
        if (isBlank(reason)) {
          return Http.error(403, "EVALUATION_REQUIRED", "evaluation is " # proposal.evaluationStatus # " and no waiver was given");
        };
        let waiver = "{\"by\":" # Json.quote(request.user) # ",\"at\":\"" # Moment.iso(request.now) # "\",\"reason\":" # Json.quote(reason) # "}";
        proposal.evaluationWaiver := ?Json.escape(waiver);
      };
      case _ {};
    };
    switch (Scan.string(request.body, "external_ref")) {
      case (?given) proposal.externalRef := Json.escape(Json.cut(given, 512));
      case null {};
    };
    close(proposal, "approved", request.now);
    let notes = Vaults.open(tenants, request.user, Vaults.cleanId(proposal.vault));
    Map.add(notes, Text.compare, proposal.path, Vaults.rendered(proposal.path, proposal.frontmatter, proposal.body));
    let logPath = "approvals/" # Moment.date(request.now) # "-" # proposal.id # ".md";
    let log = "kind: approval_log\nproposal_id: " # proposal.id # "\ntarget_path: " # Json.quote(proposal.path)
    # "\napproved_by: " # Json.quote(request.user) # "\napproved_at: " # proposal.updatedAt
    # "\nevaluation_status: " # Json.quote(proposal.evaluationStatus) # "\n";
    Vaults.put(notes, logPath, log, "Proposal " # proposal.id # " was approved and written to " # proposal.path # ".\n");
    Http.ok(
      "{\"proposal_id\":" # Json.quote(proposal.id) # ",\"status\":\"approved\",\"approval_log_path\":" # Json.quote(logPath)
      # ",\"approval_log_written\":true,\"external_ref\":\"" # proposal.externalRef # "\"}"
    );
  };

  /// Discard the open proposals of a vault for that path and all under `prefix/`; how many there were.
  public func discardUnder(shelves : Shelves, request : Request, prefix : Text) : Nat {
    let ?place = shelf(shelves, request.user, request.vault) else return 0;
    var discarded = 0;
    for (proposal in List.values(place.all)) {
      let concerned = proposal.path == prefix or Text.startsWith(proposal.path, #text(prefix # "/"));
      if (concerned and proposal.status == "proposed") {
        close(proposal, "discarded", request.now);
        discarded += 1;
      };
    };
    discarded;
  };

  func close(proposal : Proposal, status : Text, now : Int) {
    proposal.status := status;
    proposal.updatedAt := Moment.iso(now);
  };

  func notOpen(proposal : Proposal) : Http.Answer = Http.badRequest("proposal is already " # proposal.status);

  func done(proposal : Proposal) : Http.Answer = Http.ok("{\"proposal_id\":" # Json.quote(proposal.id) # ",\"ok\":true}");

  func isBlank(text : Text) : Bool = Text.trim(text, #predicate(func char = char == ' ' or char == '\t' or char == '\n' or char == '\r')) == "";
};
