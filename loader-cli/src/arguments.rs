//! The command line.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use weightloader::{CachePolicy, LoadOptions, Loader, LoaderBuilder, Strategy};

use crate::failure::Failure;
use crate::target::{Target, UploadWay};
use crate::units;

const ENVIRONMENT: &str = "\
Environment:
  WEIGHTLOADER_STRATEGY, _CACHE, _THREADS, _QUEUE_DEPTH, _CHUNK, _MEMORY_LIMIT (bytes), _PACE
                    overrule the options of any program that loads with this library
  WEIGHTLOADER_LOG  off, error, warn, info, debug or trace: what to log to standard error";

/// Loads machine-learning weights as fast as the device under them allows, and shows how fast
/// that is.
#[derive(Debug, Parser)]
#[command(name = "weightloader", version, arg_required_else_help = true, after_help = ENVIRONMENT)]
pub(crate) struct Arguments {
    /// Print the result as one JSON object on the last line of standard output; everything else
    /// goes to standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Load a checkpoint into host memory.
    Load(Load),
    /// Bring a checkpoint to where it is used: into the buffers of a GPU, or into host memory.
    Upload(Upload),
    /// List the tensors of a checkpoint and where they lie.
    Info(Info),
    /// Write the exact bytes of one tensor.
    Extract(Extract),
    /// Bring a file or checkpoint into the page cache, and wait until it is there.
    Prefetch(Prefetch),
    /// Show which part of a file or checkpoint the page cache holds.
    Residency(Files),
    /// Drop a file or checkpoint from the page cache.
    Evict(Files),
    Bench(Bench),
    /// Tell what this machine and a file's filesystem offer, and what that makes of a load.
    Doctor(Doctor),
}

#[derive(Args, Debug)]
pub(crate) struct Load {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) reading: Reading,
    /// Lock the weights in memory once they are there, as far as the system allows it.
    #[arg(long)]
    pub(crate) lock: bool,
    /// Draw where the time goes: phases, faults, each read from submission to completion.
    #[arg(long, value_name = "OUT.svg")]
    pub(crate) timeline: Option<PathBuf>,
}

impl Command {
    /// Whether what the library tells of its reads is to be recorded.
    pub(crate) fn wants_timeline(&self) -> bool {
        matches!(self, Self::Load(load) if load.timeline.is_some())
    }
}

#[derive(Args, Debug)]
pub(crate) struct Upload {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Where the weights go.
    #[arg(long, value_enum)]
    pub(crate) to: Target,
    /// How they go there.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) way: UploadWay,
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

#[derive(Args, Debug)]
pub(crate) struct Info {
    /// A file of safetensors, GGUF or raw bytes, an index of shards, or a folder.
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) selection: Selection,
}

#[derive(Args, Debug)]
pub(crate) struct Extract {
    /// A file of safetensors, GGUF or raw bytes, an index of shards, or a folder.
    pub(crate) path: PathBuf,
    /// The tensor's name.
    pub(crate) tensor: String,
    /// The file to write; `-` is standard output.
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) reading: Reading,
}

#[derive(Args, Debug)]
pub(crate) struct Prefetch {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Bytes a second at most, so that others who use the device are not disturbed.
    #[arg(long, value_name = "BYTES")]
    pub(crate) pace: Option<ByteSize>,
}

#[derive(Args, Debug)]
pub(crate) struct Files {
    /// A file, an index of shards, or a folder with a checkpoint.
    pub(crate) path: PathBuf,
}

/// Compare the ways of loading a checkpoint on this machine.
///
/// Each way copies all weights into fresh memory, on huge pages where the system has them; its time
/// includes taking that memory and faulting it in. Ways take turns, once cold (evicted before each),
/// once half cached (every other 64 MiB, or quarter of a short file) and once warm (fully cached) a
/// round. The files must not be changed or truncated meanwhile.
///
/// The ceiling is what the device gives: direct reads, 64 of 1 MiB in flight, into huge pages that
/// were faulted in beforehand, so that nothing but the reads takes time. Shares of it compare the
/// fastest turns.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// How often each way is measured in each state of the page cache.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Begin no further round after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) seconds: Option<u64>,
    /// Measure uploads to the GPU too, as far as there is one.
    #[arg(long)]
    pub(crate) upload: bool,
    /// Measure these ways only.
    #[arg(long, value_name = "WAY", value_delimiter = ',')]
    pub(crate) only: Vec<crate::bench::Way>,
    /// Draw the result as bars.
    #[arg(long, value_name = "OUT.svg")]
    pub(crate) plot: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// A file, an index of shards, or a folder with a checkpoint; without it the machine alone.
    pub(crate) path: Option<PathBuf>,
}

/// What is loaded.
#[derive(Args, Debug)]
pub(crate) struct Source {
    /// A file of safetensors, GGUF or raw bytes, an index of shards, or a folder. Without it a
    /// sample checkpoint is made in the cache folder, and kept for the next time.
    pub(crate) path: Option<PathBuf>,
    /// Size of the sample checkpoint.
    #[arg(long, hide = true, value_name = "BYTES", conflicts_with = "path")]
    pub(crate) sample_bytes: Option<ByteSize>,
}

/// Which tensors are meant.
#[derive(Args, Debug)]
pub(crate) struct Selection {
    /// Only tensors with such names: `*` and `?`, `[0-9]`, `{a,b}`; several by commas or by
    /// repeating the option.
    #[arg(long, value_name = "GLOB")]
    pub(crate) tensors: Vec<String>,
}

/// How bytes are read.
#[derive(Args, Debug)]
pub(crate) struct Reading {
    /// How bytes are read.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) strategy: StrategyName,
    /// What becomes of the page cache.
    #[arg(long, value_enum, default_value_t)]
    cache: CacheName,
    /// Threads that copy from the page cache [default: what suits the machine].
    #[arg(long, value_name = "NUMBER")]
    threads: Option<usize>,
    #[arg(long, value_name = "NUMBER", help = format!(
        "Direct reads in flight [default: {}]",
        LoadOptions::DEFAULT_QUEUE_DEPTH
    ))]
    queue_depth: Option<usize>,
    #[arg(long, value_name = "BYTES", help = format!(
        "Bytes of one read at most: 65536, 4MiB [default: {}]",
        units::bytes(LoadOptions::DEFAULT_CHUNK_BYTES)
    ))]
    chunk: Option<ByteSize>,
    /// Bytes in flight and read ahead at most, besides the weights: never less than one chunk, and
    /// 1 MiB a worker where reads are unaligned.
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory_limit: Option<ByteSize>,
    /// Bytes a second at most, so that others who use the device are not disturbed.
    #[arg(long, value_name = "BYTES")]
    pace: Option<ByteSize>,
    /// Drop the files from the page cache first, before the clock starts.
    #[arg(long)]
    pub(crate) cold: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum StrategyName {
    /// Each byte where it is fastest.
    #[default]
    Auto,
    /// Past the page cache; an error where that is not possible.
    Direct,
    /// Through the page cache.
    Buffered,
    /// Copied out of a memory mapping by one thread, a page fault at a time: for comparison. The
    /// file must not be truncated meanwhile.
    Mapped,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum CacheName {
    /// Whatever is fastest now.
    #[default]
    Auto,
    /// The weights end up cached, so that the next start is warm. Not with --strategy direct.
    Keep,
    /// Weights that were not cached before are not cached afterwards.
    Bypass,
}

impl Reading {
    /// A loader with these options.
    pub(crate) fn loader(&self) -> Result<Loader, Failure> {
        Ok(self.builder().build()?)
    }

    /// What makes a loader with these options.
    pub(crate) fn builder(&self) -> LoaderBuilder {
        let mut builder = self.policies();
        if let Some(threads) = self.threads {
            builder = builder.threads(threads);
        }
        if let Some(depth) = self.queue_depth {
            builder = builder.queue_depth(depth);
        }
        if let Some(bytes) = self.chunk {
            builder = builder.chunk_bytes(bytes.as_u64());
        }
        if let Some(bytes) = self.memory_limit {
            builder = builder.memory_limit(bytes.as_u64());
        }
        if let Some(bytes) = self.pace {
            builder = builder.pace(bytes.as_u64());
        }
        builder
    }

    fn policies(&self) -> LoaderBuilder {
        let strategy = match self.strategy {
            StrategyName::Auto | StrategyName::Mapped => Strategy::Auto,
            StrategyName::Direct => Strategy::Direct,
            StrategyName::Buffered => Strategy::Buffered,
        };
        let cache = match self.cache {
            CacheName::Auto => CachePolicy::Auto,
            CacheName::Keep => CachePolicy::Keep,
            CacheName::Bypass => CachePolicy::Bypass,
        };
        Loader::builder().strategy(strategy).cache(cache)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
