// `npm run chaos -- --seed 1 --runs 200`: seeded runs, a line each, a table at the end; 1 where anything was found.
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { FOLDER, startPostgresOfTheRun } from '../harness/postgres-of-the-run.ts';
import { keepArtefacts, lineOf, tableOf } from './report.ts';
import { runScenario } from './run-scenario.ts';
import type { RunResult } from './run-scenario.ts';
import { makeScenario } from './scenario.ts';
import type { Source } from './scenario.ts';

const integer = (text: string): number => {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('must be a whole number.');
  return Number(text);
};

type Options = { seed: number; runs: number; jobs: number; seconds: number; source: Source; keep: string };

const options = new Command('npm run chaos --')
  .description(
    'Runs Abide under load while processes are killed, lines break and stores forget, and checks what is left. ' +
      'Needs Redis at 127.0.0.1:6379, and for --source kafka a JDK and Maven; everything else is started. Exits with 1 where anything was found.',
  )
  .option('--seed <n>', 'the first seed: the same seed is the same scenario', integer, 1)
  .option('--runs <n>', 'so many runs, each with the next seed', integer, 1)
  .option('--jobs <n>', 'so many runs at once', integer, 1)
  .option('--seconds <n>', 'how long load and faults go on in a run', integer, 8)
  .addOption(
    new Option('--source <source>', 'what carries the decisions')
      .choices(['pgoutput', 'kafka'])
      .default('pgoutput'),
  )
  .option(
    '--keep <folder>',
    'where a run that found something leaves what it saw',
    join(tmpdir(), 'abide-chaos'),
  )
  .parse()
  .opts<Options>();

const say = (line: string): boolean => process.stdout.write(`${line}\n`);

const interrupted = new AbortController();
// Ctrl-C comes twice, from the terminal and by npm: the second one must not leave what the first one is ending.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => interrupted.abort());

const command = (seed: number): string =>
  [
    `npm run chaos -- --seed ${seed} --runs 1`,
    ...(options.seconds === 8 ? [] : [`--seconds ${options.seconds}`]),
    ...(options.source === 'pgoutput' ? [] : [`--source ${options.source}`]),
  ].join(' ');

const runs: RunResult[] = [];
/** Runs that could not be carried out: of those nothing is known. */
let broken = 0;
let next = options.seed;

async function job(): Promise<void> {
  while (next < options.seed + options.runs && !interrupted.signal.aborted) {
    const seed = next;
    next += 1;
    try {
      const scenario = makeScenario(seed, options.seconds * 1_000, options.source);
      const run = await runScenario(scenario, interrupted.signal, options.source);
      runs.push(run);
      say(lineOf(run));
      if (run.findings.length === 0) continue;
      for (const { category, what } of run.findings.slice(0, 10)) say(`  ${category}: ${what}`);
      if (run.findings.length > 10) say(`  and ${run.findings.length - 10} more`);
      say(`  everything that was seen: ${await keepArtefacts(run, options.keep)}`);
      say(`  again: ${command(seed)}`);
    } catch (error) {
      if (interrupted.signal.aborted) return;
      broken += 1;
      say(
        `seed ${seed}: BROKEN, the run could not be carried out: ${error instanceof Error ? (error.stack ?? '') : ''}`,
      );
      say(`  again: ${command(seed)}`);
    }
  }
}

const postgres = await startPostgresOfTheRun();
process.env[FOLDER] = postgres.folder;
try {
  await Promise.all(Array.from({ length: Math.max(1, options.jobs) }, job));
} finally {
  await postgres.stop();
}
if (runs.length > 0) say(`\n${tableOf(runs)}`);
if (broken > 0) say(`\n${broken} of the runs could not be carried out.`);
process.exit(
  interrupted.signal.aborted ? 130 : broken > 0 || runs.some(({ findings }) => findings.length > 0) ? 1 : 0,
);
