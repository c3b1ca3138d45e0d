//! Times candle's own ways to load a safetensors file against ours: the same bytes ending in
//! candle's own tensors, cold and warm.
//!
//! ```text
//! cargo run --release --example compare -- FILE [ROUNDS]
//! ```
//!
//! Ways take turns within each round, each in a process of its own, so that all of them begin with
//! the memory of a program that has just started. Before a cold turn the file is dropped from the
//! page cache; before the warm ones it is read once.

use std::error::Error;
use std::process::Command;
use std::time::Instant;

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{Device, Tensor};
use weightloader::{Loader, WeightFile};

type Outcome<T> = Result<T, Box<dyn Error>>;
type Way = (&'static str, fn(&str) -> Outcome<Vec<Tensor>>);

const WAYS: [Way; 3] = [
    ("candle, MmapedSafetensors", mapped),
    ("candle, safetensors::load", whole),
    ("weightloader", ours),
];

fn mapped(path: &str) -> Outcome<Vec<Tensor>> {
    // SAFETY: nobody changes the file while this runs.
    let file = unsafe { MmapedSafetensors::new(path) }?;
    let tensors = file.tensors().into_iter();
    let tensors = tensors.map(|(name, _)| Ok(file.load(&name, &Device::Cpu)?));
    tensors.collect()
}

fn whole(path: &str) -> Outcome<Vec<Tensor>> {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
    Ok(tensors.into_values().collect())
}

fn ours(path: &str) -> Outcome<Vec<Tensor>> {
    let tensors = weightloader_candle::load(path, &Device::Cpu)?;
    Ok(tensors.into_values().collect())
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which file?")?;
    let number = arguments.next().map_or(Ok(5), |number| number.parse())?;
    match arguments.next() {
        Some(_) => turn(&path, WAYS[number].1),
        None => compare(&path, number.max(1)),
    }
}

/// Loads once, in this process, and says how long that took.
fn turn(path: &str, way: fn(&str) -> Outcome<Vec<Tensor>>) -> Outcome<()> {
    let started = Instant::now();
    let tensors = way(path)?;
    println!("{}", started.elapsed().as_secs_f64());
    drop(tensors);
    Ok(())
}

fn compare(path: &str, rounds: usize) -> Outcome<()> {
    let file = WeightFile::open(path)?;
    let loader = Loader::new()?;
    println!("{path}: {} MB, {rounds} rounds", file.len() / 1_000_000);
    for (state, cold) in [("cold", true), ("warm", false)] {
        let mut seconds = [const { Vec::new() }; WAYS.len()];
        if !cold {
            std::io::copy(&mut std::fs::File::open(path)?, &mut std::io::sink())?;
        }
        for _ in 0..rounds {
            for (way, seconds) in seconds.iter_mut().enumerate() {
                if cold {
                    loader.evict(&file, ..)?;
                }
                seconds.push(turn_elsewhere(path, way)?);
            }
        }
        println!("{state}:");
        for ((name, _), seconds) in WAYS.iter().zip(&mut seconds) {
            seconds.sort_by(f64::total_cmp);
            let rate = |seconds: f64| file.len() as f64 / seconds / 1e9;
            println!(
                "  {name:28} best {:5.2} GB/s, median {:5.2} GB/s, slowest {:5.2} GB/s",
                rate(seconds[0]),
                rate(seconds[rounds / 2]),
                rate(seconds[rounds - 1]),
            );
        }
    }
    Ok(())
}

/// Loads once in another process, which says how many seconds that took.
fn turn_elsewhere(path: &str, way: usize) -> Outcome<f64> {
    let this = std::env::current_exe()?;
    let way = way.to_string();
    let output = Command::new(this).args([path, &way, "turn"]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}
