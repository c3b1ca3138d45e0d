//! `weightloader doctor`: what is here, and what that makes of a load.

use std::collections::BTreeMap;

use serde::Serialize;
use weightloader::core::Platform;
use weightloader::{CachePolicy, Checkpoint, Fact, LoadOptions, Loader, Strategy, WeightFile};

use super::how::PassedOver;
use crate::arguments::Doctor;
use crate::cache;
use crate::failure::Failure;
use crate::output::Output;
use crate::units;

#[derive(Debug, Serialize)]
struct Diagnosis {
    system: &'static str,
    machine: BTreeMap<&'static str, String>,
    prefetchers: Vec<&'static str>,
    buffered: &'static str,
    direct: Mechanism,
    /// Better mechanisms that do not serve here.
    refused: Vec<PassedOver>,
    files: Vec<File>,
    /// What Auto does because of all this, in sentences.
    conclusions: Vec<String>,
    #[serde(skip)]
    facts: Vec<Fact>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mechanism {
    Available(&'static str),
    Unavailable(String),
}

#[derive(Debug, Serialize)]
struct File {
    path: String,
    bytes: u64,
    filesystem: BTreeMap<&'static str, String>,
    direct: Direct,
    /// Share in the page cache, from 0 to 1; `null` where the system does not tell.
    resident: Option<f64>,
    /// Whether that is an estimate, because the system does not tell.
    resident_estimated: bool,
    #[serde(skip)]
    facts: Vec<Fact>,
}

/// Whether a file can be read past the page cache.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Direct {
    Possible {
        offset_alignment: u64,
        memory_alignment: usize,
        /// Why Auto does not use it though it would work.
        discouraged: Option<String>,
    },
    Impossible(String),
}

pub(crate) fn run(arguments: &Doctor, output: &Output) -> Result<(), Failure> {
    let loader = Loader::new()?;
    let platform = loader.platform();
    let mut diagnosis = Diagnosis {
        system: platform.name,
        facts: platform.system.machine_facts(),
        machine: BTreeMap::new(),
        prefetchers: platform
            .prefetchers
            .iter()
            .map(|prefetcher| prefetcher.mechanism().name())
            .collect(),
        buffered: platform.buffered.mechanism().name(),
        direct: match &platform.direct {
            Ok(reader) => Mechanism::Available(reader.mechanism().name()),
            Err(refusal) => Mechanism::Unavailable(refusal.reason.clone()),
        },
        refused: platform.refusals.iter().map(PassedOver::from).collect(),
        files: Vec::new(),
        conclusions: machine_conclusions(platform),
    };
    diagnosis.machine = by_name(&diagnosis.facts);
    if let Some(path) = &arguments.path {
        let files = cache::files(path)?;
        for file in &files {
            diagnosis.files.push(examine(&loader, file)?);
        }
        diagnosis.conclude(&loader, cache::total(&files));
        if let Err(error) = Checkpoint::open(path) {
            diagnosis
                .conclusions
                .push(format!("It does not load: {error}."));
        }
    }
    output.result(&diagnosis, describe)
}

fn by_name(facts: &[Fact]) -> BTreeMap<&'static str, String> {
    facts
        .iter()
        .map(|fact| (fact.name, fact.value.clone()))
        .collect()
}

fn examine(loader: &Loader, file: &WeightFile) -> Result<File, Failure> {
    let platform = loader.platform();
    let support = platform
        .direct
        .as_ref()
        .map_err(Clone::clone)
        .and_then(|reader| reader.support(file));
    let facts = platform.system.file_facts(file);
    let map = loader.residency(file, .., LoadOptions::DEFAULT_CHUNK_BYTES)?;
    let resident = map.resident_bytes();
    Ok(File {
        path: file.path().display().to_string(),
        bytes: file.len(),
        filesystem: by_name(&facts),
        facts,
        direct: match support {
            Ok(support) => Direct::Possible {
                offset_alignment: support.offset_alignment,
                memory_alignment: support.memory_alignment,
                discouraged: support.discouraged,
            },
            Err(refusal) => Direct::Impossible(refusal.reason),
        },
        resident: resident.map(|resident| units::share(resident, file.len())),
        resident_estimated: map.is_estimate(),
    })
}

fn machine_conclusions(platform: &Platform) -> Vec<String> {
    let mut conclusions = Vec::new();
    conclusions.push(match platform.prefetchers.first() {
        Some(best) => format!(
            "A prefetch works in the background, by {}.",
            best.mechanism()
        ),
        None => "Nothing can be prefetched here.".to_owned(),
    });
    for refusal in &platform.refusals {
        let weightloader::Refusal {
            mechanism, reason, ..
        } = refusal;
        conclusions.push(format!("It does without {mechanism}: {reason}."));
    }
    if let Err(refusal) = &platform.direct {
        let reason = &refusal.reason;
        conclusions.push(format!(
            "Every load goes through the page cache, since direct I/O is not to be had: {reason}."
        ));
    }
    conclusions
}

impl Diagnosis {
    /// Tells what Auto will do with the files.
    fn conclude(&mut self, loader: &Loader, bytes: u64) {
        let strategy = loader.options().strategy;
        if strategy != Strategy::Auto {
            self.conclusions.push(format!(
                "WEIGHTLOADER_STRATEGY forces {strategy}: what follows is what Auto would do."
            ));
        }
        if loader.options().cache != CachePolicy::Auto {
            self.conclusions.push(format!(
                "WEIGHTLOADER_CACHE asks to {}: what follows is what Auto would do without that.",
                loader.options().cache
            ));
        }
        for file in &self.files {
            let name = if self.files.len() > 1 {
                format!("{}: ", file.path)
            } else {
                String::new()
            };
            self.conclusions.push(name + &file.conclusion());
        }
        if self.files.iter().any(|file| file.resident_estimated) {
            self.conclusions.push(
                "What is cached is an estimate, made anew when a load begins, since the system does not tell."
                    .to_owned(),
            );
        }
        match loader.platform().system.available_memory() {
            Some(available) if available < bytes => self.conclusions.push(format!(
                "It does not fit: it has {}, and {} of memory are available.",
                units::bytes(bytes),
                units::bytes(available),
            )),
            _ => {}
        }
    }
}

impl File {
    fn conclusion(&self) -> String {
        match (&self.direct, self.resident) {
            _ if self.bytes <= LoadOptions::SMALL_BYTES => {
                "Auto reads it through the page cache: it is too small for anything else to pay."
                    .to_owned()
            }
            (Direct::Impossible(reason), _) => {
                format!("Auto reads it through the page cache: {reason}.")
            }
            (
                Direct::Possible {
                    discouraged: Some(reason),
                    ..
                },
                _,
            ) => format!("Auto reads it through the page cache, though direct I/O would work: {reason}."),
            (Direct::Possible { .. }, None) => {
                "Auto reads it through the page cache, since the system does not tell what is cached."
                    .to_owned()
            }
            (Direct::Possible { .. }, Some(share)) if share <= cache::COLD => {
                "Auto reads it by direct I/O, straight into the destination: nothing of it is cached."
                    .to_owned()
            }
            (Direct::Possible { .. }, Some(share)) if share >= 1.0 => {
                "Auto copies it from the page cache, on several threads: all of it is cached."
                    .to_owned()
            }
            (Direct::Possible { .. }, Some(share)) => format!(
                "Auto copies the {} that are cached from the page cache and reads the rest by direct I/O, both at once.",
                units::percent(share)
            ),
        }
    }
}

fn describe(diagnosis: &Diagnosis) -> String {
    let mut lines = vec![format!("machine ({})", diagnosis.system)];
    list(&mut lines, &diagnosis.facts);
    lines.push(format!(
        "  {:24} {}",
        "prefetch by",
        match &diagnosis.prefetchers[..] {
            [] => "nothing".to_owned(),
            names => names.join(", else "),
        }
    ));
    lines.push(format!(
        "  {:24} {}",
        "buffered reads by", diagnosis.buffered
    ));
    lines.push(match &diagnosis.direct {
        Mechanism::Available(name) => format!("  {:24} {name}", "direct reads by"),
        Mechanism::Unavailable(reason) => format!("  {:24} nothing: {reason}", "direct reads by"),
    });
    for file in &diagnosis.files {
        lines.push(format!("{} ({})", file.path, units::bytes(file.bytes)));
        list(&mut lines, &file.facts);
        if !file.filesystem.contains_key("direct_io") {
            lines.push(format!("  {:24} {}", "direct io", file.direct.describe()));
        }
        let mut resident = file
            .resident
            .map_or_else(|| "unknown".to_owned(), units::percent);
        if file.resident_estimated {
            resident.push_str(" (an estimate)");
        }
        lines.push(format!("  {:24} {resident}", "in the page cache"));
    }
    lines.push("so".to_owned());
    lines.extend(diagnosis.conclusions.iter().map(|line| format!("  {line}")));
    lines.join("\n")
}

fn list(lines: &mut Vec<String>, facts: &[Fact]) {
    for fact in facts {
        let name = fact.name.replace('_', " ");
        lines.push(format!("  {name:24} {}", fact.value));
    }
}

impl Direct {
    fn describe(&self) -> String {
        match self {
            Self::Possible {
                offset_alignment,
                memory_alignment,
                ..
            } => format!(
                "possible, at multiples of {offset_alignment} bytes of the file and {memory_alignment} of memory"
            ),
            Self::Impossible(reason) => format!("impossible: {reason}"),
        }
    }
}
