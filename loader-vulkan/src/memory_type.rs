//! Pure choice: which of a device's memory types suits a purpose.

use std::fmt;

use ash::vk;
use ash::vk::MemoryPropertyFlags as Flags;

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Weights that only the device touches.
    Device,
    /// Weights of the device's that the host writes.
    DeviceMapped,
    /// Slots that the host writes and the device copies from.
    Staging,
    /// Memory of the host's that the device uses.
    Imported,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "local",
            Self::DeviceMapped => "local and coherent host-visible",
            Self::Staging | Self::Imported => "coherent host-visible",
        })
    }
}

impl Purpose {
    /// What a type must have, and what it should rather not have.
    fn flags(self) -> (Flags, Flags) {
        let coherent = Flags::HOST_VISIBLE | Flags::HOST_COHERENT;
        match self {
            // What the host can see is scarce where it is not everything.
            Self::Device => (Flags::DEVICE_LOCAL, Flags::HOST_VISIBLE),
            Self::DeviceMapped => (coherent | Flags::DEVICE_LOCAL, Flags::empty()),
            Self::Staging => (coherent, Flags::DEVICE_LOCAL),
            Self::Imported => (coherent, Flags::empty()),
        }
    }
}

/// The type for `purpose` among those whose bits are set in `allowed`. Drivers list types of equal
/// properties the fastest first.
pub(crate) fn choose(
    types: &vk::PhysicalDeviceMemoryProperties,
    allowed: u32,
    purpose: Purpose,
) -> Option<u32> {
    let (must, rather_not) = purpose.flags();
    let unsuitable = Flags::PROTECTED | Flags::LAZILY_ALLOCATED | Flags::DEVICE_COHERENT_AMD;
    (0..types.memory_type_count)
        .zip(types.memory_types)
        .filter(|(index, _)| allowed & (1 << index) != 0)
        .map(|(index, found)| (index, found.property_flags))
        .filter(|(_, flags)| flags.contains(must) && !flags.intersects(unsuitable))
        .min_by_key(|(index, flags)| (flags.intersects(rather_not), *index))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(flags: &[Flags]) -> vk::PhysicalDeviceMemoryProperties {
        let mut types = vk::PhysicalDeviceMemoryProperties {
            memory_type_count: u32::try_from(flags.len()).unwrap(),
            ..Default::default()
        };
        for (place, flags) in types.memory_types.iter_mut().zip(flags) {
            place.property_flags = *flags;
        }
        types
    }

    #[test]
    fn a_card_with_memory_of_its_own() {
        let host = Flags::HOST_VISIBLE | Flags::HOST_COHERENT;
        let types = types(&[
            Flags::empty(),
            host | Flags::DEVICE_LOCAL,
            Flags::DEVICE_LOCAL,
            host,
            host | Flags::HOST_CACHED,
        ]);
        let chosen = |purpose| choose(&types, u32::MAX, purpose);
        assert_eq!(chosen(Purpose::Device), Some(2));
        assert_eq!(chosen(Purpose::DeviceMapped), Some(1));
        assert_eq!(chosen(Purpose::Staging), Some(3));
        assert_eq!(choose(&types, 0b1_0000, Purpose::Imported), Some(4));
        assert_eq!(choose(&types, 0b0_0010, Purpose::Device), Some(1));
        assert_eq!(choose(&types, 0b0_0001, Purpose::Device), None);
        assert_eq!(choose(&types, 0, Purpose::Staging), None);
    }

    #[test]
    fn one_memory_for_all() {
        let all =
            Flags::DEVICE_LOCAL | Flags::HOST_VISIBLE | Flags::HOST_COHERENT | Flags::HOST_CACHED;
        let types = types(&[all]);
        for purpose in [
            Purpose::Device,
            Purpose::DeviceMapped,
            Purpose::Staging,
            Purpose::Imported,
        ] {
            assert_eq!(choose(&types, 1, purpose), Some(0));
        }
    }

    #[test]
    fn memory_that_must_be_flushed_or_is_protected_is_left_alone() {
        let types = types(&[
            Flags::DEVICE_LOCAL | Flags::HOST_VISIBLE | Flags::HOST_CACHED,
            Flags::DEVICE_LOCAL | Flags::PROTECTED,
        ]);
        assert_eq!(choose(&types, u32::MAX, Purpose::DeviceMapped), None);
        assert_eq!(choose(&types, u32::MAX, Purpose::Device), Some(0));
    }
}
