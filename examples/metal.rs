//! Loads a checkpoint into Metal buffers and says where the first tensors are:
//!
//!     cargo run --release --features metal --example metal -- PATH [import|in-place|staged]

#[cfg(target_vendor = "apple")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::io::Write;
    use weightloader::metal::{MetalUploader, Way};
    use weightloader::{Loader, Operation};

    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which checkpoint?")?;
    let way = match arguments.next().as_deref() {
        None => Way::Auto,
        Some("import") => Way::Import,
        Some("in-place") => Way::InPlace,
        Some("staged") => Way::Staged,
        Some(other) => return Err(format!("there is no way {other:?}").into()),
    };

    // A runtime gives its own device and queue: `build_on(device)`, `queue(queue)`.
    let mut uploader = MetalUploader::builder().way(way).keep_resident().build()?;
    let loader = Loader::new()?;
    let checkpoint = loader.open(&path)?;
    let operation = Operation::new().on_progress(|progress| {
        let percent = progress.bytes * 100 / progress.total.max(1);
        print!("\r{percent} %");
        let _ = std::io::stdout().flush();
    });
    let uploaded = loader.upload(&checkpoint, &mut uploader, operation)?;

    let report = &uploaded.report;
    let landing = report.landing.map_or("nowhere", |landing| landing.name());
    println!(
        "\r{} bytes in {:.2?}, {landing}",
        report.bytes, report.elapsed
    );
    for refusal in &report.fallbacks {
        println!("passed over: {refusal}");
    }
    for placement in uploaded.placements.iter().take(10) {
        let slice = &uploader.buffers()[placement.buffer];
        println!(
            "{}: {} bytes from {} on in buffer {}",
            placement.tensor,
            placement.len,
            slice.offset + placement.offset,
            placement.buffer
        );
    }
    Ok(())
}

#[cfg(not(target_vendor = "apple"))]
fn main() {
    println!("skipped: there is no Metal on this system");
}
