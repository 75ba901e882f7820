//! `apb bench prefill` by several processes.

use std::ops::Range;

use burn_apb::apb::{Assignment, Document, Method, PrefillPlan};
use burn_apb::checkpoint::source::ModelSource;
use burn_apb::load_decoder;
use burn_apb::ranks::World;

use super::prefill::{Measured, Prefill, Row, Times, decode};
use super::subject::Subject;
use crate::commands::generate;
use crate::commands::together::{self, Checked};
use crate::error::CliError;
use crate::output::Output;
use crate::{memory, processes};

/// Several processes: the first reads and plans, all compute their ranks' rows, and each reports its
/// memory and what it received.
pub fn together(args: &Prefill, world: &mut World, output: &Output) -> Result<(), CliError> {
    if args.random_weights {
        return Err(CliError::usage(
            "--random-weights is for one process: others would make other weights",
        ));
    }
    let mut strategy = args.strategy.clone();
    together::one_rank_each(&mut strategy, world);
    processes::first_alone(world, || generate::resolve(&args.model, output))?;
    let opened = ModelSource::open(generate::resolve(&args.model, output)?)
        .map_err(CliError::usage)
        .and_then(|source| {
            let (config, fingerprint) = together::identify(&source)?;
            let mut facts = together::facts(&args.compute, &strategy, fingerprint)?;
            let asked = format!(
                "{:?} tokens, {:?}, {:?}, {} runs, {} decoded",
                args.tokens,
                args.methods(),
                strategy.config()?,
                args.warm_up + args.runs.get(),
                args.decode
            );
            facts.push(("lengths", Some(asked)));
            let checked = Checked {
                source,
                config,
                device: args.compute.device()?,
                dtype: args.compute.dtype(),
            };
            Ok((checked, facts))
        });
    let (checked, facts) = processes::agree(world, opened)?;
    processes::compare(world, &facts)?;
    let opened = processes::first_alone(world, || {
        let subject = Subject::open(args, output)?;
        let cases = args.cases(&subject, &strategy)?;
        Ok((subject, cases))
    })?;
    memory::give_back();
    let Checked {
        source,
        config,
        device,
        dtype,
    } = &checked;
    let (first, mut rows) = match opened {
        Some((subject, cases)) => {
            let subject = processes::agree(world, subject.load(args, output))?;
            // The tokenizer has gone, and its memory is not this rank's rows.
            memory::give_back();
            let row = |(document, plan): (Document, PrefillPlan)| (document, Row::new(plan, 0));
            (
                Some(subject),
                cases.into_iter().map(row).collect::<Vec<_>>(),
            )
        }
        None => (None, Vec::new()),
    };
    let other = match &first {
        Some(_) => None,
        None => {
            let decoder = load_decoder(source, config, *dtype, device, &mut |_| {});
            Some(processes::agree(world, decoder.map_err(CliError::from))?.0)
        }
    };
    let decoder = match (&first, &other) {
        (Some(subject), _) => subject.decoder(),
        (None, Some(decoder)) => decoder,
        (None, None) => return Ok(()),
    };
    let methods: Vec<Method> = args.tokens.iter().flat_map(|_| args.methods()).collect();
    for run in 0..args.warm_up + args.runs.get() {
        for (case, method) in methods.iter().enumerate() {
            memory::reset_peak();
            strategy.method = Some(*method);
            let mut row = first.as_ref().zip(rows.get_mut(case));
            let Some(mut group) = together::group(&strategy, world)? else {
                let measured = processes::first_alone(world, || {
                    let once = |(subject, (document, row)): &(&Subject, &mut (Document, Row))| {
                        row.once(subject, document, args)
                    };
                    row.as_ref().map(once).transpose()
                })?;
                if let (Some((_, (_, row))), Some(Some(measured))) = (&mut row, measured)
                    && run >= args.warm_up
                {
                    row.peak_bytes = row.peak_bytes.max(memory::peak_bytes());
                    row.add(measured);
                }
                continue;
            };
            let assign = row.as_ref().map(|(subject, (document, row))| {
                let (document, plan) = (document.clone(), row.plan.clone());
                let next = subject.ids[plan.tokens];
                move |ranks: Range<usize>| {
                    let room = args.capacity(plan.tokens);
                    Assignment::new(&document, &plan, &[next], room, args.decode + 1, ranks)
                }
            });
            let assign = assign
                .as_ref()
                .map(|assign| assign as &dyn Fn(Range<usize>) -> Assignment);
            let task = Assignment::scatter(&mut group, assign)?;
            let chunk = strategy.chunk;
            let mut times = Times::default();
            let (mut session, seconds) =
                together::prefill(decoder, &checked, &task, chunk, group, &mut times)?;
            let decode_rate = match args.decode {
                0 => None,
                count => decode(&mut session, &task.query, count)?.decode_tokens_per_second(),
            };
            let report = together::report(&checked, &task, chunk, session.group());
            let reports = processes::reports(world, report)?;
            if let Some((_, (_, row))) = row
                && run >= args.warm_up
            {
                row.add(Measured {
                    seconds,
                    times,
                    decode_rate,
                });
                row.peak_bytes = row.peak_bytes.max(memory::peak_bytes());
                row.needed_bytes = reports[0]["needed_bytes"].as_u64().unwrap_or(0) as usize;
                row.processes = reports;
            }
        }
    }
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    match &first {
        Some(subject) => args.show(subject, &rows, output),
        None => Ok(()),
    }
}
