//! `retrieval/knn`: search in FAISS index files, stored vectors given back, and the blend of features with their
//! neighbours.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use candle_core::{Device, Tensor};
use musaic_adapters::{
    bridge::Blend,
    knn::{Hit, Index},
};
use musaic_core::testing::{Case, Data};

use crate::verify::{case::Context, recorder::Recorder};

pub fn run(case: &Case, _: &Context<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    let queries = case.tensor("in.queries", &Device::Cpu)?;
    let (count, dim) = queries.dims2()?;
    let queries = queries.flatten_all()?.to_vec1::<f32>()?;
    let blend = Blend { reference: true, ..Blend::default() };
    let folder = case.model()?;
    let mut names: Vec<_> =
        case.expected().filter_map(|name| name.strip_prefix("out.")?.strip_suffix(".sims")).collect();
    names.sort_unstable();
    ensure!(!names.is_empty(), "the case stores no `out.<index>.sims`");
    for name in names {
        let path = folder.join(name).join("knn.index");
        ensure!(fs::metadata(&path).is_ok(), "no index file for `out.{name}.sims`");
        let mut index = Index::open(&path)?;
        ensure!(index.dim() == dim, "{name}: vectors of {}, queries of {dim}", index.dim());
        let mut hits = index.search(&queries, blend.cache_size)?;
        if let Some(Data::Integers(wanted)) = case.stored(&format!("out.{name}.ids")).map(|ids| &ids.data) {
            let wanted = wanted.chunks(blend.cache_size);
            hits.iter_mut().zip(wanted).for_each(|(hits, wanted)| swap_equals(hits, wanted));
        }
        let tensor = |values: Vec<f32>, shape: &[usize]| Tensor::from_vec(values, shape, &Device::Cpu);
        let rows = [count, blend.cache_size];
        let all = || hits.iter().flatten();
        recorder.tensor(format!("out.{name}.sims"), &tensor(all().map(|hit| hit.similarity).collect(), &rows)?)?;
        let ids: Vec<i64> = all().map(|hit| hit.id.map_or(-1, |id| id as i64)).collect();
        recorder.tensor(format!("out.{name}.ids"), &Tensor::from_vec(ids, &rows[..], &Device::Cpu)?)?;
        let reconstructed = format!("out.{name}.reconstructed");
        if recorder.stores(&reconstructed) {
            let mut vectors = Vec::with_capacity(count * blend.cache_size * dim);
            for hit in all() {
                vectors.extend(index.vector(hit.id.context("a missing hit has no vector")?)?);
            }
            recorder.tensor(reconstructed, &tensor(vectors, &[count, blend.cache_size, dim])?)?;
        }
        let (blended, _) = blend.apply(&tensor(queries.clone(), &[count, 1, dim])?, &mut index)?;
        recorder.tensor(format!("out.{name}.blended"), &blended.squeeze(1)?)?;
    }
    Ok(())
}

/// Puts neighbours of equal similarity in the order of the case: which comes first is left open.
fn swap_equals(hits: &mut [Hit], wanted: &[i64]) {
    /// The tolerance of the cases.
    const EQUAL: f32 = 1e-5;
    for (at, want) in wanted.iter().enumerate() {
        let same = |hit: &Hit| hit.id.map_or(-1, |id| id as i64) == *want;
        let found = hits.iter().skip(at).position(same).map(|ahead| at + ahead);
        if let Some(found) = found.filter(|found| (hits[*found].similarity - hits[at].similarity).abs() <= EQUAL) {
            hits.swap(at, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equals_are_swapped() {
        let hit = |(id, similarity)| Hit { id: Some(id), similarity };
        let mut hits = [(1, 0.9), (2, 0.8), (3, 0.8), (4, 0.7)].map(hit);
        swap_equals(&mut hits, &[4, 3, 2, 1]);
        assert_eq!(hits.map(|hit| hit.id), [Some(1), Some(3), Some(2), Some(4)]);
    }
}
