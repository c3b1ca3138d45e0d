//! Pure choice: which way weights go to a device.

use loader_core::{Mechanism, Refusal, Result};

use crate::failure::{NAME, no_device};

/// How weights go to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Way {
    /// Whichever of the others the device serves best.
    ///
    /// Buffers that the caller has mapped are filled in place. Else a device that shares the host's
    /// memory imports, or is filled in place where it cannot; one with memory of its own is staged
    /// to, or filled in place where it cannot copy.
    #[default]
    Auto,
    /// Host memory is filled and then becomes the device's without a copy.
    Import,
    /// Memory of the device that the host can see is filled.
    InPlace,
    /// A ring of slots is filled and copied from by a queue of the device.
    Staged,
}

impl Way {
    fn mechanism(self) -> Mechanism {
        Mechanism::new(match self {
            Self::Auto => NAME,
            Self::Import => "vulkan-import",
            Self::InPlace => "vulkan-in-place",
            Self::Staged => "vulkan-staged",
        })
    }
}

/// Whether each way serves, or why not.
#[derive(Clone, Debug)]
pub(crate) struct Offers {
    pub(crate) import: Result<(), String>,
    pub(crate) in_place: Result<(), String>,
    pub(crate) staged: Result<(), String>,
}

impl Offers {
    fn of(&self, way: Way) -> Result<(), Refusal> {
        let offer = match way {
            Way::Auto => &Ok(()),
            Way::Import => &self.import,
            Way::InPlace => &self.in_place,
            Way::Staged => &self.staged,
        };
        let refusal = |reason: &String| Refusal::new(way.mechanism(), reason.clone());
        offer.as_ref().map_err(refusal).copied()
    }
}

/// The way to go, and the better ones that were passed over, where `preferred` is the order in
/// which they are tried.
///
/// # Errors
/// `Error::Unsupported` where the way `wanted` does not serve, or none does.
pub(crate) fn choose(
    wanted: Way,
    preferred: [Way; 3],
    offers: &Offers,
) -> Result<(Way, Vec<Refusal>)> {
    if wanted != Way::Auto {
        offers.of(wanted)?;
        return Ok((wanted, Vec::new()));
    }
    let mut passed_over = Vec::new();
    for way in preferred {
        match offers.of(way) {
            Ok(()) => return Ok((way, passed_over)),
            Err(refusal) => passed_over.push(refusal),
        }
    }
    let reasons: Vec<String> = passed_over.iter().map(Refusal::to_string).collect();
    Err(no_device(reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use loader_core::Error;

    use super::*;

    const UNIFIED: [Way; 3] = [Way::Import, Way::InPlace, Way::Staged];

    fn offers(import: bool, in_place: bool, staged: bool) -> Offers {
        let offer = |serves, reason: &str| {
            if serves {
                Ok(())
            } else {
                Err(reason.to_owned())
            }
        };
        Offers {
            import: offer(import, "no import"),
            in_place: offer(in_place, "no window"),
            staged: offer(staged, "no queue"),
        }
    }

    #[test]
    fn the_first_that_serves_is_taken_and_better_ones_say_why_not() {
        for serving in 0..8 {
            let offered = [serving & 1 != 0, serving & 2 != 0, serving & 4 != 0];
            let offers = offers(offered[0], offered[1], offered[2]);
            let first = offered.iter().position(|serves| *serves);
            match (choose(Way::Auto, UNIFIED, &offers), first) {
                (Ok((way, passed_over)), Some(first)) => {
                    assert_eq!((way, passed_over.len()), (UNIFIED[first], first));
                }
                (Err(error), None) => {
                    let told = error.to_string();
                    for reason in ["no import", "no window", "no queue"] {
                        assert!(told.contains(reason), "{told}");
                    }
                }
                (chosen, first) => panic!("{chosen:?} where {first:?} serves first"),
            }
        }
    }

    #[test]
    fn a_forced_way_never_falls_back() {
        for (index, way) in UNIFIED.into_iter().enumerate() {
            let but_this = [index != 0, index != 1, index != 2];
            let offers = offers(but_this[0], but_this[1], but_this[2]);
            let error = choose(way, UNIFIED, &offers).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            let offers = self::offers(true, true, true);
            assert_eq!(choose(way, UNIFIED, &offers).unwrap(), (way, Vec::new()));
        }
    }
}
