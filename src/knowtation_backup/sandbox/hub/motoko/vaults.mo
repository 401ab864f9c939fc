/// Notes of all tenants: tenant, vault, path, each in order of its text.
///
/// A note is kept as the JSON object that replies carry, so reading a vault only strings these together.

import Iter "mo:core/Iter";
import List "mo:core/List";
import Map "mo:core/Map";
import Nat "mo:core/Nat";
import Text "mo:core/Text";

import Json "json";

module {
  /// Path to the note as JSON.
  public type Notes = Map.Map<Text, Text>;

  /// Vault id to its notes. A tenant owns such a map from its first write on, and it is never taken away.
  public type Vaults = Map.Map<Text, Notes>;

  public type Tenants = Map.Map<Text, Vaults>;

  public let DEFAULT = "default";

  let MAX_ID_LENGTH = 64;

  /// A vault id as the hub uses it: characters outside `[A-Za-z0-9_-]` become `_`, at most 64 count, blank is `default`.
  public func cleanId(given : Text) : Text {
    let trimmed = Text.trim(given, #predicate(func char = char == ' ' or char == '\t'));
    if (trimmed == "") return DEFAULT;
    let allowed = func(char : Char) : Char {
      let fine = (char >= 'A' and char <= 'Z') or (char >= 'a' and char <= 'z') or (char >= '0' and char <= '9') or char == '_' or char == '-';
      if fine char else '_';
    };
    Text.fromIter(Iter.take(Iter.map(trimmed.chars(), allowed), MAX_ID_LENGTH));
  };

  /// A note as JSON from texts that are already escaped, except the path.
  public func rendered(path : Text, escapedFrontmatter : Text, escapedBody : Text) : Text = (
    "{\"path\":" # Json.quote(path) # ",\"frontmatter\":\"" # escapedFrontmatter # "\",\"body\":\"" # escapedBody # "\"}"
  );

  public func find(tenants : Tenants, user : Text, vault : Text) : ?Notes {
    let ?vaults = Map.get(tenants, Text.compare, user) else return null;
    Map.get(vaults, Text.compare, vault);
  };

  /// The notes of a vault, which is created with its tenant when it is not there.
  public func open(tenants : Tenants, user : Text, vault : Text) : Notes {
    let vaults = switch (Map.get(tenants, Text.compare, user)) {
      case (?existing) existing;
      case null {
        let fresh = Map.empty<Text, Notes>();
        Map.add(tenants, Text.compare, user, fresh);
        fresh;
      };
    };
    switch (Map.get(vaults, Text.compare, vault)) {
      case (?existing) existing;
      case null {
        let fresh = Map.empty<Text, Text>();
        Map.add(vaults, Text.compare, vault, fresh);
        fresh;
      };
    };
  };

  public func put(notes : Notes, path : Text, frontmatter : Text, body : Text) {
    Map.add(notes, Text.compare, path, rendered(path, Json.escape(frontmatter), Json.escape(body)));
  };

  /// Remove the note of exactly that path and all under `prefix/`; the removed paths, in order.
  public func removeUnder(notes : Notes, prefix : Text) : List.List<Text> {
    let removed = List.empty<Text>();
    if (Map.containsKey(notes, Text.compare, prefix)) List.add(removed, prefix);
    for ((path, _) in Map.entriesFrom(notes, Text.compare, prefix # "/")) {
      if (Text.startsWith(path, #text(prefix # "/"))) List.add(removed, path) else return cleared(notes, removed);
    };
    cleared(notes, removed);
  };

  func cleared(notes : Notes, paths : List.List<Text>) : List.List<Text> {
    for (path in List.values(paths)) Map.remove(notes, Text.compare, path);
    paths;
  };

  /// `[note, note, …]`
  public func listJson(notes : ?Notes) : Text {
    let ?some = notes else return "[]";
    var list = "[";
    var separator = ""; // looking at the list to see whether it is empty would take time with its length
    for (note in Map.values(some)) {
      list #= separator # note;
      separator := ",";
    };
    list # "]";
  };

  public func count(notes : ?Notes) : Nat {
    switch notes { case (?some) Map.size(some); case null 0 };
  };

  /// `[{id, label}]`; the single entry `default` when the tenant has no vault.
  public func vaultListJson(tenants : Tenants, user : Text) : Text {
    var list = "";
    switch (Map.get(tenants, Text.compare, user)) {
      case (?vaults) {
        for (id in Map.keys(vaults)) {
          let entry = "{\"id\":" # Json.quote(id) # ",\"label\":" # Json.quote(id) # "}";
          list #= (if (list == "") entry else "," # entry);
        };
      };
      case null {};
    };
    if (list == "") list := "{\"id\":\"default\",\"label\":\"default\"}";
    "[" # list # "]";
  };
};
