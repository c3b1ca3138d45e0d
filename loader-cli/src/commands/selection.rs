//! Tensors by the patterns that their names match.

use std::path::Path;

use globset::{Glob, GlobSet, GlobSetBuilder};
use weightloader::Checkpoint;

use crate::arguments::Selection;
use crate::failure::Failure;
use crate::units;

impl Selection {
    /// The tensors of `checkpoint`, opened by `path`, that match any pattern; all of them where there
    /// is none.
    pub(crate) fn select(
        &self,
        path: &Path,
        checkpoint: Checkpoint,
    ) -> Result<Checkpoint, Failure> {
        if self.tensors.is_empty() {
            return Ok(checkpoint);
        }
        let patterns = compile(&self.tensors)?;
        let selected = checkpoint.select(|tensor| patterns.is_match(tensor.name()));
        if selected.tensors().is_empty() {
            let patterns = self.tensors.join(",");
            let count = checkpoint.tensors().len();
            return Err(Failure::Message(format!(
                "{}: none of the {} matches {patterns}; `weightloader info` lists them",
                path.display(),
                units::count(count, "tensor"),
            )));
        }
        Ok(selected)
    }
}

fn compile(arguments: &[String]) -> Result<GlobSet, Failure> {
    let invalid = |error| Failure::Message(format!("--tensors: {error}"));
    let mut patterns = GlobSetBuilder::new();
    for pattern in arguments.iter().flat_map(|argument| split(argument)) {
        patterns.add(Glob::new(pattern).map_err(invalid)?);
    }
    patterns.build().map_err(invalid)
}

/// Cuts at commas, except within braces and brackets, where they belong to the pattern.
fn split(argument: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let cut = |character: char| {
        match character {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    };
    argument
        .split(cut)
        .filter(|pattern| !pattern.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_part_patterns_but_not_alternatives() {
        assert_eq!(split("a.*,b"), ["a.*", "b"]);
        assert_eq!(split("{a,b}.[0,1],c,"), ["{a,b}.[0,1]", "c"]);
        assert_eq!(split("}a,b"), ["}a", "b"]);
    }

    #[test]
    fn a_star_matches_dots_and_slashes() {
        let patterns = compile(&["model.*.weight".to_owned()]).unwrap();
        assert!(patterns.is_match("model.layers.0.q/k.weight"));
        assert!(!patterns.is_match("lm_head.weight"));
    }
}
