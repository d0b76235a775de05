//! From a checkpoint and a recipe to a verified plan.

use crate::artifact::side;
use crate::checkpoint::Checkpoint;
use crate::dtype::scheme::Rule;
use crate::error::{Error, Result};
use crate::passes::{self, Context, Ran};
use crate::plan::recipe::{Recipe, ResolvedRecipe};
use crate::plan::{Header, Plan};
use crate::targets::engine::Engine;
use crate::targets::{Preset, Target};

/// A plan with everything that made it.
pub struct Compiled {
    /// The plan, verified and placed.
    pub plan: Plan,
    /// The passes that ran, with what they did.
    pub ran: Vec<Ran>,
    /// The chip.
    pub target: &'static Target,
    /// The scheme.
    pub preset: &'static Preset,
    /// The engine dialect.
    pub engine: &'static dyn Engine,
    /// What was asked for, explicit.
    pub recipe: ResolvedRecipe,
    /// What a person should know before trusting the artifact.
    pub notes: Vec<String>,
}

/// The rule called `name`, when the preset has a choice that it is part of.
fn scale_rule(name: &str, preset: &Preset) -> Result<Rule> {
    let schemes = [preset.encoding, preset.experts];
    let fits = |rule: &Rule| schemes.iter().flatten().any(|s| rule.replaces(s.rule));
    Rule::from_name(name).filter(fits).ok_or_else(|| {
        let legal: Vec<&str> = Rule::all().filter(fits).map(Rule::name).collect();
        Error::usage("scale-rule", format!("{} cannot have the scale rule {name}", preset.name))
            .expected(if legal.is_empty() { "no other rule".to_owned() } else { legal.join(", ") })
            .found(name)
            .fix("choose one of the rules, or leave the option out")
    })
}

/// Compiles the conversion of `checkpoint` for the target called `target`.
pub fn compile(checkpoint: &Checkpoint, target: &str, recipe: Recipe) -> Result<Compiled> {
    let target = Target::find(target)?;
    let preset = target.preset_for(recipe.scheme.as_deref(), checkpoint)?;
    let engine = target.engine_for(recipe.engine.as_deref())?;
    let recipe = ResolvedRecipe {
        target: target.id.clone(),
        engine: engine.name().to_owned(),
        scheme: preset.name.clone(),
        include: recipe.include,
        ignore: recipe.ignore,
        nan: recipe.nan.unwrap_or_default(),
        allow_code_files: recipe.allow_code_files.unwrap_or_default(),
        scale_rule: recipe.scale_rule.as_deref().map(|name| scale_rule(name, preset)).transpose()?,
        shard_bytes: recipe.shard_bytes.unwrap_or(target.shard_bytes).max(1),
    };
    let header = Header {
        target: recipe.target.clone(),
        engine: recipe.engine.clone(),
        scheme: recipe.scheme.clone(),
        family: checkpoint.family.id.to_owned(),
        recipe: recipe.to_json(),
    };
    let mut plan = Plan::identity(checkpoint, header);
    let cx = Context { checkpoint, target, preset, engine, recipe: &recipe };
    let ran = passes::run(&mut plan, &cx, None)?;
    let notes = ran.iter().flat_map(|r| r.outcome.notes.iter().cloned()).collect();
    side::plan_side_files(&mut plan, checkpoint, preset, engine, recipe.allow_code_files);
    Ok(Compiled { plan, ran, target, preset, engine, recipe, notes })
}
