/// Bulk loading for tests and demonstrations: Candid records in, no request bodies scanned and nothing checked.
///
/// This is the only way to plant what older versions of a hub left behind: blank vault ids, ids that repeat, and
/// texts that claim to be JSON and are not.

import Map "mo:core/Map";
import Text "mo:core/Text";

import Json "json";
import Proposals "proposals";
import Vaults "vaults";

module {
  public type NoteSeed = { path : Text; frontmatter : Text; body : Text };

  /// The fields of a proposal as the HTTP interface names them; none is checked.
  public type ProposalSeed = {
    proposal_id : Text;
    path : Text;
    status : Text;
    intent : Text;
    base_state_id : Text;
    external_ref : Text;
    vault_id : Text;
    created_at : Text;
    updated_at : Text;
    evaluation_status : Text;
    evaluation_grade : Text;
    evaluated_by : Text;
    evaluated_at : Text;
    review_queue : Text;
    review_severity : Text;
    auto_flag_reasons_json : Text;
    body : Text;
    frontmatter : Text;
    evaluation_checklist : Text;
    evaluation_comment : Text;
    evaluation_waiver : ?Text;
    review_hints : Text;
    review_hints_at : Text;
    review_hints_model : Text;
    assistant_notes : Text;
    assistant_model : Text;
    assistant_at : Text;
    suggested_labels : Text;
    assistant_suggested_frontmatter : Text;
  };

  /// One vault of one tenant; notes replace those of the same path, proposals are appended to the vault they name.
  public type VaultSeed = {
    user_id : Text;
    vault_id : Text;
    /// Whether the vault exists even when it gets no note. Proposals alone do not make a vault.
    create_vault : Bool;
    notes : [NoteSeed];
    proposals : [ProposalSeed];
  };

  public func plant(tenants : Vaults.Tenants, shelves : Proposals.Shelves, seeds : [VaultSeed]) {
    for (seed in seeds.values()) {
      if (seed.create_vault or seed.notes.size() > 0) {
        let notes = Vaults.open(tenants, seed.user_id, seed.vault_id);
        for (note in seed.notes.values()) Vaults.put(notes, note.path, note.frontmatter, note.body);
      };
      for (proposal in seed.proposals.values()) {
        Proposals.add(shelves, seed.user_id, Vaults.cleanId(proposal.vault_id), stored(proposal));
      };
    };
  };

  /// Give other tenants the notes of a vault. The texts are shared, so gigabytes of replies need little memory.
  public func copy(tenants : Vaults.Tenants, user : Text, vault : Text, toUsers : [Text]) {
    let source = Vaults.open(tenants, user, vault);
    for (toUser in toUsers.values()) {
      let target = Vaults.open(tenants, toUser, vault);
      for ((path, note) in Map.entries(source)) Map.add(target, Text.compare, path, note);
    };
  };

  func stored(seed : ProposalSeed) : Proposals.Proposal = {
    id = seed.proposal_id;
    path = seed.path;
    vault = seed.vault_id;
    intent = Json.escape(seed.intent);
    baseStateId = Json.escape(seed.base_state_id);
    createdAt = Json.escape(seed.created_at);
    reviewQueue = Json.escape(seed.review_queue);
    reviewSeverity = Json.escape(seed.review_severity);
    autoFlagReasons = Json.escape(seed.auto_flag_reasons_json);
    body = Json.escape(seed.body);
    frontmatter = Json.escape(seed.frontmatter);
    var status = Json.escape(seed.status);
    var externalRef = Json.escape(seed.external_ref);
    var updatedAt = Json.escape(seed.updated_at);
    var evaluationStatus = Json.escape(seed.evaluation_status);
    var evaluationGrade = Json.escape(seed.evaluation_grade);
    var evaluatedBy = Json.escape(seed.evaluated_by);
    var evaluatedAt = Json.escape(seed.evaluated_at);
    var evaluationChecklist = Json.escape(seed.evaluation_checklist);
    var evaluationComment = Json.escape(seed.evaluation_comment);
    var evaluationWaiver = switch (seed.evaluation_waiver) { case (?text) ?Json.escape(text); case null null };
    var reviewHints = Json.escape(seed.review_hints);
    var reviewHintsAt = Json.escape(seed.review_hints_at);
    var reviewHintsModel = Json.escape(seed.review_hints_model);
    var assistantNotes = Json.escape(seed.assistant_notes);
    var assistantModel = Json.escape(seed.assistant_model);
    var assistantAt = Json.escape(seed.assistant_at);
    var suggestedLabels = seed.suggested_labels;
    var suggestedFrontmatter = seed.assistant_suggested_frontmatter;
  };
};
