//! A small model computes the same with our weights as with those that candle loads itself.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{
    Embedding, LayerNorm, Linear, Module, VarBuilder, VarMap, embedding, layer_norm, linear,
    linear_no_bias, ops,
};

const WORDS: usize = 300;
const WIDTH: usize = 64;

/// One block of attention over an embedding, with the head tied to it.
struct Model {
    words: Embedding,
    norm: LayerNorm,
    queries: Linear,
    keys: Linear,
    values: Linear,
    hidden: Linear,
    output: Linear,
    head: Linear,
}

impl Model {
    fn new(weights: &VarBuilder<'_>) -> Result<Self> {
        let block = weights.pp("block");
        Ok(Self {
            words: embedding(WORDS, WIDTH, weights.pp("words"))?,
            norm: layer_norm(WIDTH, 1e-5, block.pp("norm"))?,
            queries: linear_no_bias(WIDTH, WIDTH, block.pp("queries"))?,
            keys: linear_no_bias(WIDTH, WIDTH, block.pp("keys"))?,
            values: linear_no_bias(WIDTH, WIDTH, block.pp("values"))?,
            hidden: linear(WIDTH, 4 * WIDTH, block.pp("hidden"))?,
            output: linear(4 * WIDTH, WIDTH, block.pp("output"))?,
            head: Linear::new(weights.get((WORDS, WIDTH), "words.weight")?, None),
        })
    }

    fn forward(&self, words: &Tensor) -> Result<Tensor> {
        let x = self.words.forward(words)?;
        let normal = self.norm.forward(&x)?;
        let (queries, keys) = (self.queries.forward(&normal)?, self.keys.forward(&normal)?);
        let scores = (queries.matmul(&keys.t()?)? / (WIDTH as f64).sqrt())?;
        let seen = ops::softmax_last_dim(&scores)?.matmul(&self.values.forward(&normal)?)?;
        let x = (x + seen)?;
        let x = (&x + self.output.forward(&self.hidden.forward(&x)?.gelu()?)?)?;
        self.head.forward(&x)
    }
}

/// Writes a model with weights as they are before training.
fn write(path: &Path) {
    let weights = VarMap::new();
    Model::new(&VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu)).unwrap();
    weights.save(path).unwrap();
}

#[test]
fn a_model_computes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path);
    let words = Tensor::new(&[3_u32, 141, 59, 26, 5], &Device::Cpu).unwrap();
    for dtype in [DType::F32, DType::F16] {
        let ours = weightloader_candle::var_builder(&path, dtype, &Device::Cpu).unwrap();
        // SAFETY: nobody changes the file meanwhile.
        let theirs = unsafe { VarBuilder::from_mmaped_safetensors(&[&path], dtype, &Device::Cpu) };
        let compute = |weights: &VarBuilder<'_>| {
            let output = Model::new(weights).unwrap().forward(&words).unwrap();
            let output = output.to_dtype(DType::F64).unwrap();
            output.to_vec2::<f64>().unwrap()
        };
        let (ours, theirs) = (compute(&ours), compute(&theirs.unwrap()));
        assert_eq!((ours.len(), ours[0].len()), (5, WORDS));
        assert!(ours.iter().flatten().any(|value| *value != 0.0));
        assert_eq!(ours, theirs);
    }
}
