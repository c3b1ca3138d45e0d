//! What the elements of a tensor are.

use std::fmt;

/// Declares the types with their blocks: `NAME: elements in bytes, align bytes`.
macro_rules! dtypes {
    ($($(#[$doc:meta])* $name:ident: $elements:literal in $bytes:literal, align $align:literal;)*) => {
        /// What the elements of a tensor are, named as its format names it.
        ///
        /// Some types pack several elements into a block of bytes: the sub-byte types of
        /// safetensors, and the quantised types of ggml with their scales.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(non_camel_case_types, reason = "names as the formats spell them")]
        #[non_exhaustive]
        pub enum Dtype {
            $($(#[$doc])* $name,)*
        }

        impl Dtype {
            /// Every type there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name as the format spells it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The smallest unit that is stored: so many elements in so many bytes.
            ///
            /// ```
            /// use loader_formats::Dtype;
            /// assert_eq!(Dtype::F32.block(), (1, 4));
            /// assert_eq!(Dtype::F4.block(), (2, 1));
            /// assert_eq!(Dtype::Q4_0.block(), (32, 18));
            /// ```
            #[must_use]
            pub const fn block(self) -> (u64, u64) {
                match self {
                    $(Self::$name => ($elements, $bytes),)*
                }
            }

            /// The alignment in bytes that code reading elements in place expects: that of the C
            /// type of an element, or of ggml's struct for a block.
            ///
            /// A file does not promise it: safetensors may place a tensor at any offset.
            #[must_use]
            pub const fn align(self) -> usize {
                match self {
                    $(Self::$name => $align,)*
                }
            }
        }
    };
}

dtypes! {
    /// Boolean, one byte each.
    BOOL: 1 in 1, align 1;
    /// Unsigned integer of 8 bits.
    U8: 1 in 1, align 1;
    /// Signed integer of 8 bits.
    I8: 1 in 1, align 1;
    /// Unsigned integer of 16 bits.
    U16: 1 in 2, align 2;
    /// Signed integer of 16 bits.
    I16: 1 in 2, align 2;
    /// Unsigned integer of 32 bits.
    U32: 1 in 4, align 4;
    /// Signed integer of 32 bits.
    I32: 1 in 4, align 4;
    /// Unsigned integer of 64 bits.
    U64: 1 in 8, align 8;
    /// Signed integer of 64 bits.
    I64: 1 in 8, align 8;
    /// Half-precision floating point.
    F16: 1 in 2, align 2;
    /// Brain floating point.
    BF16: 1 in 2, align 2;
    /// Single-precision floating point.
    F32: 1 in 4, align 4;
    /// Double-precision floating point.
    F64: 1 in 8, align 8;
    /// Complex number of two single-precision floats.
    C64: 1 in 8, align 4;

    /// Floating point of 4 bits, two to a byte.
    F4: 2 in 1, align 1;
    /// Floating point of 6 bits with 2 of exponent, four to three bytes.
    F6_E2M3: 4 in 3, align 1;
    /// Floating point of 6 bits with 3 of exponent, four to three bytes.
    F6_E3M2: 4 in 3, align 1;
    /// Floating point of 8 bits with 5 of exponent.
    F8_E5M2: 1 in 1, align 1;
    /// Floating point of 8 bits with 4 of exponent.
    F8_E4M3: 1 in 1, align 1;
    /// A power of two as 8 bits of exponent, the scale of the MX formats.
    F8_E8M0: 1 in 1, align 1;
    /// As [`F8_E4M3`](Self::F8_E4M3), without infinities and negative zero.
    F8_E4M3FNUZ: 1 in 1, align 1;
    /// As [`F8_E5M2`](Self::F8_E5M2), without infinities and negative zero.
    F8_E5M2FNUZ: 1 in 1, align 1;

    /// 4 bits and a scale.
    Q4_0: 32 in 18, align 2;
    /// 4 bits, a scale and a minimum.
    Q4_1: 32 in 20, align 4;
    /// 5 bits and a scale.
    Q5_0: 32 in 22, align 2;
    /// 5 bits, a scale and a minimum.
    Q5_1: 32 in 24, align 4;
    /// 8 bits and a scale.
    Q8_0: 32 in 34, align 2;
    /// 8 bits, a scale and a sum, stored with single precision: 40 bytes, as gguf-py has it
    /// (`constants.py`, `GGML_QUANT_SIZES`). In ggml's memory the two have half precision
    /// (`ggml-common.h`, `block_q8_1`: 36 bytes), but its quantiser does not offer this type for
    /// files: it is what activations are turned into while a model runs.
    Q8_1: 32 in 40, align 4;
    /// 2 bits in super-blocks.
    Q2_K: 256 in 84, align 4;
    /// 3 bits in super-blocks.
    Q3_K: 256 in 110, align 2;
    /// 4 bits in super-blocks.
    Q4_K: 256 in 144, align 4;
    /// 5 bits in super-blocks.
    Q5_K: 256 in 176, align 4;
    /// 6 bits in super-blocks.
    Q6_K: 256 in 210, align 2;
    /// 8 bits in super-blocks.
    Q8_K: 256 in 292, align 4;
    /// 2.06 bits by importance.
    IQ2_XXS: 256 in 66, align 2;
    /// 2.31 bits by importance.
    IQ2_XS: 256 in 74, align 2;
    /// 3.06 bits by importance.
    IQ3_XXS: 256 in 98, align 2;
    /// 1.56 bits by importance.
    IQ1_S: 256 in 50, align 2;
    /// 4 bits of a non-linear table.
    IQ4_NL: 32 in 18, align 2;
    /// 3.44 bits by importance.
    IQ3_S: 256 in 110, align 2;
    /// 2.56 bits by importance.
    IQ2_S: 256 in 82, align 2;
    /// 4.25 bits of a non-linear table.
    IQ4_XS: 256 in 136, align 2;
    /// 1.75 bits by importance.
    IQ1_M: 256 in 56, align 1;
    /// Ternary, five to a byte.
    TQ1_0: 256 in 54, align 2;
    /// Ternary, four to a byte.
    TQ2_0: 256 in 66, align 2;
    /// 4-bit floats with a common exponent.
    MXFP4: 32 in 17, align 1;
    /// 4-bit floats, 16 to a scale.
    NVFP4: 64 in 36, align 1;
    /// 1 bit and a scale.
    Q1_0: 128 in 18, align 2;
    /// 2 bits and a scale.
    Q2_0: 64 in 18, align 2;
}

impl Dtype {
    /// Bytes that so many elements take; `None` where they do not fill whole blocks or where that
    /// overflows.
    ///
    /// ```
    /// use loader_formats::Dtype;
    /// assert_eq!(Dtype::Q8_0.bytes_of(64), Some(68));
    /// assert_eq!(Dtype::Q8_0.bytes_of(65), None);
    /// assert_eq!(Dtype::F32.bytes_of(u64::MAX), None);
    /// ```
    #[must_use]
    pub const fn bytes_of(self, elements: u64) -> Option<u64> {
        let (per_block, bytes) = self.block();
        if elements % per_block == 0 {
            (elements / per_block).checked_mul(bytes)
        } else {
            None
        }
    }

    /// The type that a safetensors header spells so (safetensors 0.8, `tensor.rs`, `Dtype`).
    #[cfg(feature = "safetensors")]
    pub(crate) fn from_safetensors(name: &str) -> Option<Self> {
        const KNOWN: [Dtype; 22] = [
            Dtype::F32,
            Dtype::F16,
            Dtype::BF16,
            Dtype::F64,
            Dtype::I8,
            Dtype::I16,
            Dtype::I32,
            Dtype::I64,
            Dtype::U8,
            Dtype::U16,
            Dtype::U32,
            Dtype::U64,
            Dtype::BOOL,
            Dtype::C64,
            Dtype::F4,
            Dtype::F6_E2M3,
            Dtype::F6_E3M2,
            Dtype::F8_E5M2,
            Dtype::F8_E4M3,
            Dtype::F8_E8M0,
            Dtype::F8_E4M3FNUZ,
            Dtype::F8_E5M2FNUZ,
        ];
        KNOWN.into_iter().find(|dtype| dtype.name() == name)
    }

    /// The type that ggml numbers so (llama.cpp, `ggml/include/ggml.h`, `enum ggml_type`; block
    /// sizes from `ggml/src/ggml-common.h`).
    #[cfg(feature = "gguf")]
    pub(crate) fn from_ggml(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            9 => Self::Q8_1,
            10 => Self::Q2_K,
            11 => Self::Q3_K,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            15 => Self::Q8_K,
            16 => Self::IQ2_XXS,
            17 => Self::IQ2_XS,
            18 => Self::IQ3_XXS,
            19 => Self::IQ1_S,
            20 => Self::IQ4_NL,
            21 => Self::IQ3_S,
            22 => Self::IQ2_S,
            23 => Self::IQ4_XS,
            24 => Self::I8,
            25 => Self::I16,
            26 => Self::I32,
            27 => Self::I64,
            28 => Self::F64,
            29 => Self::IQ1_M,
            30 => Self::BF16,
            34 => Self::TQ1_0,
            35 => Self::TQ2_0,
            39 => Self::MXFP4,
            40 => Self::NVFP4,
            41 => Self::Q1_0,
            42 => Self::Q2_0,
            _ => return None,
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
