//! Where weights can be uploaded to.

use clap::ValueEnum;
use weightloader::{Error, HostUploader, Uploader};

/// What takes the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// A GPU, through Vulkan; a software driver where there is nothing better.
    Vulkan,
    /// A GPU of Apple's, through Metal: on macOS.
    Metal,
    /// Host memory.
    Host,
}

/// How the weights go there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum UploadWay {
    /// Whichever way the device serves best.
    #[default]
    Auto,
    /// Host memory is filled and becomes the device's without a copy.
    Import,
    /// Memory of the device that the host can see is filled.
    InPlace,
    /// The device copies from a ring of staging slots.
    Staged,
}

/// An uploader, and the name of its device.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) uploader: Box<dyn Uploader>,
    pub(crate) device: String,
}

impl Target {
    /// Its name in JSON and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Host => "host",
        }
    }

    /// Opens the device that takes the weights.
    pub(crate) fn open(self, way: UploadWay) -> Result<Opened, Error> {
        match (self, way) {
            (Self::Vulkan, way) => open_vulkan(way),
            (Self::Metal, way) => open_metal(way),
            (Self::Host, UploadWay::Auto | UploadWay::Import) => Ok(Opened {
                uploader: Box::new(HostUploader::new()),
                device: "host memory".to_owned(),
            }),
            (Self::Host, UploadWay::InPlace | UploadWay::Staged) => Err(Error::InvalidOption {
                option: "--way",
                value: way
                    .to_possible_value()
                    .map_or_else(String::new, |value| value.get_name().to_owned()),
                expected: "auto or import, where weights go to host memory",
            }),
        }
    }
}

#[cfg(feature = "vulkan")]
fn open_vulkan(way: UploadWay) -> Result<Opened, Error> {
    use weightloader::vulkan::{VulkanUploader, Way};

    let uploader = VulkanUploader::builder()
        .way(match way {
            UploadWay::Auto => Way::Auto,
            UploadWay::Import => Way::Import,
            UploadWay::InPlace => Way::InPlace,
            UploadWay::Staged => Way::Staged,
        })
        .build()?;
    let device = uploader.device_name().to_owned();
    Ok(Opened {
        uploader: Box::new(uploader),
        device,
    })
}

#[cfg(not(feature = "vulkan"))]
fn open_vulkan(_way: UploadWay) -> Result<Opened, Error> {
    Err(Error::Unsupported {
        mechanism: weightloader::Mechanism::new("vulkan"),
        reason: "this program was built without its feature vulkan".to_owned(),
    })
}

#[cfg(all(feature = "metal", target_vendor = "apple"))]
fn open_metal(way: UploadWay) -> Result<Opened, Error> {
    use weightloader::metal::{MetalUploader, Way};

    let uploader = MetalUploader::builder()
        .way(match way {
            UploadWay::Auto => Way::Auto,
            UploadWay::Import => Way::Import,
            UploadWay::InPlace => Way::InPlace,
            UploadWay::Staged => Way::Staged,
        })
        .build()?;
    let device = uploader.device_name();
    Ok(Opened {
        uploader: Box::new(uploader),
        device,
    })
}

#[cfg(not(all(feature = "metal", target_vendor = "apple")))]
fn open_metal(_way: UploadWay) -> Result<Opened, Error> {
    Err(Error::Unsupported {
        mechanism: weightloader::Mechanism::new("metal"),
        reason: "this program was built for a system without Metal, or without its feature metal"
            .to_owned(),
    })
}
