//! A compressor that is not one of this crate's, as plans hold it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Compressor;

/// A custom compressor in a plan: its name, and the compressor itself, which is not serialised. Two
/// are equal by their names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CustomCompressor {
    name: String,
    #[serde(skip)]
    compressor: Option<Arc<dyn Compressor>>,
}

impl CustomCompressor {
    /// What [`Compressor::name`] returned.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The compressor; none where the plan was read from JSON.
    pub fn compressor(&self) -> Option<&Arc<dyn Compressor>> {
        self.compressor.as_ref()
    }
}

impl From<Arc<dyn Compressor>> for CustomCompressor {
    fn from(compressor: Arc<dyn Compressor>) -> Self {
        Self {
            name: compressor.name().into(),
            compressor: Some(compressor),
        }
    }
}

impl PartialEq for CustomCompressor {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for CustomCompressor {}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;
    use crate::apb::compressor::{CompressorError, CompressorSource, ScoreInput};
    use crate::apb::{
        AnswerError, CompressorConfig, Document, Method, Observer, PrefillConfig, PrefillPlan,
        Request, SaveOptions, SavedSession, Session, SessionError,
    };
    use crate::kernels::KernelError;
    use crate::model::{Architecture, CausalLm, Decoder, DecoderConfig, ForwardError};
    use crate::ranks::RankGroup;
    use crate::text::sampler::{Sampler, SamplerConfig};

    const TOKENS: usize = 40;
    const PASSING: usize = 3;

    /// Keeps the last rows.
    #[derive(Debug)]
    struct Latest {
        name: &'static str,
        /// Rows scored beyond those there are.
        surplus: usize,
    }

    impl Compressor for Latest {
        fn name(&self) -> &str {
            self.name
        }

        fn score(&self, input: ScoreInput<'_>) -> Result<Tensor<3>, KernelError> {
            let [batch, kv_heads, rows, _] = input.projections.key.dims();
            let rows = rows + self.surplus;
            let scores = (0..batch * kv_heads * rows).map(|i| (i % rows) as f32);
            let data = TensorData::new(scores.collect(), [batch, kv_heads, rows]);
            Ok(Tensor::from_data(data, &input.projections.key.device()))
        }
    }

    fn latest(name: &'static str) -> Arc<dyn Compressor> {
        Arc::new(Latest { name, surplus: 0 })
    }

    fn model() -> Arc<Decoder> {
        let config = DecoderConfig::new(Architecture::Llama, 64, 32, 48, 2, 4, 2, 8);
        Arc::new(config.init(&Device::flex()))
    }

    fn document() -> Document {
        let ids = (0..TOKENS as u32).map(|id| id * 7 % 64);
        Document::new(ids.collect::<Vec<_>>()).with_anchor_query([5, 6])
    }

    fn config(compressor: Arc<dyn Compressor>) -> PrefillConfig {
        PrefillConfig::new(Method::Apb, 4)
            .with_anchor(6)
            .with_passing(PASSING)
            .with_custom_compressor(compressor)
    }

    fn plan(config: &PrefillConfig, model: &Decoder) -> PrefillPlan {
        config.plan(&document(), model.shape()).unwrap()
    }

    fn prefill(
        model: &Arc<Decoder>,
        plan: &PrefillPlan,
        observer: &mut dyn Observer,
    ) -> Result<Session, AnswerError> {
        let request = Request::from_tokens(document(), plan.clone(), vec![1, 2], 4, TOKENS);
        let (session, _) =
            request.prefill(model.clone(), RankGroup::local(plan.ranks), observer)?;
        Ok(session)
    }

    fn ask(session: &mut Session) -> Vec<u32> {
        let mut greedy = Sampler::new(SamplerConfig::default()).unwrap();
        let go_on = |_| ControlFlow::Continue(());
        let answer = session.ask(&[1, 2], &mut greedy, &[], 4, go_on);
        answer.unwrap().tokens
    }

    #[derive(Default)]
    struct Selected(Vec<(usize, Vec<usize>)>);

    impl Observer for Selected {
        fn wants_selections(&self) -> bool {
            true
        }

        fn selected(&mut self, _layer: usize, rank: usize, positions: &[Vec<Vec<usize>>]) {
            for head in &positions[0] {
                self.0.push((rank, head.clone()));
            }
        }
    }

    /// A row is chosen for its own score or those of two rows beside it: the last three of a block all
    /// have the last row's.
    #[test]
    fn a_custom_compressor_chooses_what_is_passed() {
        let model = model();
        let plan = plan(&config(latest("latest")), &model);
        let mut selected = Selected::default();
        prefill(&model, &plan, &mut selected).unwrap();
        assert!(!selected.0.is_empty());
        for (rank, rows) in selected.0 {
            let end = (rank + 1) * plan.block();
            assert_eq!(rows, (end - PASSING..end).collect::<Vec<_>>());
        }
    }

    #[test]
    fn plans_and_saved_sessions_record_its_name() {
        let model = model();
        let planned = plan(&config(latest("latest")), &model);
        let mut session = prefill(&model, &planned, &mut ()).unwrap();
        let answer = ask(&mut session);
        let folder = tempfile::tempdir().unwrap();
        session
            .save(folder.path(), "model", SaveOptions::default())
            .unwrap();

        let saved = SavedSession::open(folder.path()).unwrap();
        let mut stored = saved.plan().clone();
        assert_eq!(stored, planned);
        let recorded = serde_json::to_string(&stored.compressor).unwrap();
        assert_eq!(recorded, r#"{"custom":{"name":"latest"}}"#);
        // Questions need no compressor.
        let mut restored = saved.restore(model.clone(), 10).unwrap();
        assert_eq!(ask(&mut restored), answer);

        let missing = prefill(&model, &stored, &mut ()).unwrap_err();
        assert!(matches!(
            &missing,
            AnswerError::Compressor(CompressorError::NotGiven { name }) if name == "latest"
        ));
        assert!(missing.to_string().contains("set_custom_compressor"));
        let open = CompressorSource::open(&stored, model.shape());
        assert!(matches!(open, Err(CompressorError::NotGiven { .. })));
        let other = stored.set_custom_compressor(latest("other"));
        assert!(matches!(
            other,
            Err(CompressorError::OtherCompressor { .. })
        ));
        stored.set_custom_compressor(latest("latest")).unwrap();
        let mut again = prefill(&model, &stored, &mut ()).unwrap();
        assert_eq!(ask(&mut again), answer);
    }

    /// What is recorded would not be what was computed.
    #[test]
    fn a_compressor_that_the_plan_does_not_name_is_refused() {
        let model = model();
        let query_aware = config(latest("latest")).with_compressor(CompressorConfig::QueryAware);
        let plan = plan(&query_aware, &model);
        let mut session = prefill(&model, &plan, &mut ()).unwrap();
        let other = latest("latest");
        let result = session.prefill_with(&document(), &plan, Some(&*other), &mut ());
        assert!(matches!(
            result,
            Err(SessionError::Compressor(CompressorError::OtherCompressor { planned, found }))
                if planned == "query-aware" && found == "latest"
        ));
    }

    #[test]
    fn scores_of_another_shape_are_refused() {
        let model = model();
        let wide = Arc::new(Latest {
            name: "wide",
            surplus: 1,
        });
        let plan = plan(&config(wide), &model);
        let refused = prefill(&model, &plan, &mut ()).unwrap_err();
        assert!(
            matches!(
                &refused,
                AnswerError::Session(SessionError::Forward(ForwardError::Kernel(
                    KernelError::Shape { argument: "scores", expected, .. }
                ))) if expected.contains("`wide`")
            ),
            "{refused:?}"
        );
    }

    #[test]
    fn two_are_equal_by_name() {
        assert_eq!(config(latest("a")), config(latest("a")));
        assert_ne!(config(latest("a")), config(latest("b")));
    }
}
