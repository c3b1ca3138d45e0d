#!/usr/bin/env bash
# Uploads to a Vulkan device, Mesa's software driver, under the eyes of the validation layers.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

need libvulkan1 mesa-vulkan-drivers vulkan-validationlayers

# Devices that the uploader opens itself are watched too: the layers complain on standard output.
# That they do complain is a test of its own, which makes a mistake.
output=$(mktemp)
trap 'rm -f "$output"' EXIT
VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation \
    cargo test --workspace --all-features --locked \
    --test vulkan --test upload --test faults --test order --test ownership --test forked \
    -- --nocapture --skip the_validation_layers_see_what_is_wrong 2>&1 | tee "$output"
! grep -q "Validation Error\|Validation Warning" "$output" || fail "invalid use of Vulkan"
! grep -q "skipped: .*Vulkan" "$output" || fail "a Vulkan device was not found"

cargo test --workspace --all-features --locked --test uploading -- --nocapture
