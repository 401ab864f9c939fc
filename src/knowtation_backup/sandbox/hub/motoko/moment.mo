/// The canister clock as text: `2026-04-08T15:30:22.123Z`, always UTC, always three fractional digits.

import Int "mo:core/Int";
import Nat "mo:core/Nat";
import Text "mo:core/Text";

module {
  /// Nanoseconds since the epoch (never negative on this clock) as ISO-ms.
  public func iso(nanoseconds : Int) : Text {
    let milliseconds = Int.abs(nanoseconds) / 1_000_000;
    let seconds = milliseconds / 1_000;
    let ofDay = seconds % 86_400;
    date(nanoseconds) # "T" # padded(ofDay / 3_600, 2) # ":" # padded(ofDay / 60 % 60, 2) # ":" # padded(ofDay % 60, 2)
    # "." # padded(milliseconds % 1_000, 3) # "Z";
  };

  /// Nanoseconds since the epoch as `YYYY-MM-DD`.
  public func date(nanoseconds : Int) : Text {
    // Years are counted from March, so that the leap day is the last day of a year; 400 years have 146,097 days.
    let days = Int.abs(nanoseconds) / 86_400_000_000_000 + 719_468;
    let era = days / 146_097;
    let ofEra = days % 146_097;
    let yearOfEra = (ofEra + ofEra / 36_524 - ofEra / 1_460 - ofEra / 146_096 : Nat) / 365;
    let ofYear = ofEra + yearOfEra / 100 - 365 * yearOfEra - yearOfEra / 4 : Nat;
    let fromMarch = (5 * ofYear + 2) / 153;
    let day = ofYear - (153 * fromMarch + 2) / 5 + 1 : Nat;
    let month = if (fromMarch < 10) fromMarch + 3 else fromMarch - 9 : Nat;
    let year = era * 400 + yearOfEra + (if (month <= 2) 1 else 0);
    padded(year, 4) # "-" # padded(month, 2) # "-" # padded(day, 2);
  };

  func padded(number : Nat, width : Nat) : Text {
    var text = Nat.toText(number);
    while (text.size() < width) text := "0" # text;
    text;
  };
};
