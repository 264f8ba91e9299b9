//! The presets that come with chillgate: whole configurations to start from, `extends = "team"`.
//!
//! Only their text; merging them below a user's file is the configuration's work.

/// Name and TOML of every preset.
const PRESETS: [(&str, &str); 4] = [
    ("chill", include_str!("../presets/chill.toml")),
    ("dev", include_str!("../presets/dev.toml")),
    ("team", include_str!("../presets/team.toml")),
    ("strict", include_str!("../presets/strict.toml")),
];

/// The TOML of a preset.
pub fn get(name: &str) -> Option<&'static str> {
    PRESETS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, text)| *text)
}

/// The names, from the loosest to the strictest.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}
