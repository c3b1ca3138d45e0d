//! macOS mechanisms of `weightloader`: readahead by madvise(2) and by `F_RDADVISE`, reads with
//! `F_NOCACHE`, residency by mincore(2), page-aligned memory.
//!
//! Empty on other systems, but for its tests: what decides anything here and can be computed
//! without the system is in modules that are compiled and tested everywhere. The rest is
//! type-checked, linted and linked, and not yet run on macOS.

#[cfg(any(target_vendor = "apple", test))]
mod calls;
#[cfg(any(target_vendor = "apple", test))]
mod pages;
#[cfg(any(target_vendor = "apple", test))]
mod statistics;

#[cfg(any(all(target_vendor = "apple", feature = "metal"), test))]
#[allow(unreachable_pub, reason = "public where there is Metal")]
mod device_limits;
#[cfg(test)]
mod staged_upload;
#[cfg(any(all(target_vendor = "apple", feature = "metal"), test))]
mod staging_ring;
#[cfg(any(all(target_vendor = "apple", feature = "metal"), test))]
mod views;

#[cfg(target_vendor = "apple")]
mod advisory_read;
#[cfg(target_vendor = "apple")]
mod host_statistics;
#[cfg(target_vendor = "apple")]
mod madvise_prefetcher;
#[cfg(target_vendor = "apple")]
mod mapping;
#[cfg(target_vendor = "apple")]
mod memory;
#[cfg(all(target_vendor = "apple", feature = "metal"))]
pub mod metal;
#[cfg(target_vendor = "apple")]
mod nocache_reader;
#[cfg(target_vendor = "apple")]
mod platform;
#[cfg(target_vendor = "apple")]
mod sysctl;
#[cfg(target_vendor = "apple")]
mod system;

#[cfg(target_vendor = "apple")]
pub use {
    advisory_read::AdvisoryReadPrefetcher, madvise_prefetcher::MadvisePrefetcher,
    memory::AnonymousMemory, nocache_reader::NocacheReader, platform::platform, system::MacSystem,
};
