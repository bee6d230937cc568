// What a run says of itself: a line for each, a table of all and, if something was found, everything that was seen.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CATEGORIES } from './checker.ts';
import type { Category, Finding } from './checker.ts';
import type { RunResult } from './run-scenario.ts';
import type { Fault } from './scenario.ts';

const nameOf = (fault: Fault): string => {
  switch (fault.kind) {
    case 'kill':
      return `kill ${fault.what}`;
    case 'line':
      return `${fault.line} ${fault.how}`;
    case 'wipe':
    case 'tamper':
      return `${fault.store} ${fault.how}`;
    case 'clock':
      return `clock of ${fault.of} ${fault.aheadMs / 1_000} s`;
    case 'pause':
      return `pause ${fault.store}`;
    case 'back_up':
    case 'restore':
    case 'long_transaction':
    case 'drop_slots':
    case 'disk_full':
    case 'replace_pepper':
      return fault.kind.replace('_', ' ');
    case 'back_up_ledger':
      return 'ledger restored';
  }
};

export const countOf = (findings: readonly Finding[], category: Category): number =>
  findings.filter((one) => one.category === category).length;

const seconds = (ms: number): string => `${(ms / 1_000).toFixed(1)} s`;

export function lineOf({ scenario, findings, ...run }: RunResult): string {
  const faults = scenario.steps.flatMap((step) =>
    step.kind === 'fault' && step.fault.kind !== 'back_up' ? [nameOf(step.fault)] : [],
  );
  const found = CATEGORIES.filter((category) => countOf(findings, category) > 0).map(
    (category) => `${countOf(findings, category)} ${category}`,
  );
  return [
    `seed ${scenario.seed}: ${found.length === 0 ? 'ok' : `FOUND ${found.join(', ')}`}`,
    `${run.confirmed} answers of ${run.people} people confirmed`,
    run.recoveryMs === undefined ? 'not well again' : `well after ${seconds(run.recoveryMs)}`,
    `${run.drift} drifted`,
    `${run.telling} telling samples of ${run.samples}`,
    faults.join(', '),
  ].join(' | ');
}

/** Markdown, as docs/chaos.md shows it. */
export function tableOf(runs: readonly RunResult[]): string {
  const findings = runs.flatMap((run) => run.findings);
  const recoveries = runs.flatMap(({ recoveryMs }) => recoveryMs ?? []).sort((a, b) => a - b);
  const percentile = (share: number): string => {
    const ms = recoveries[Math.min(recoveries.length - 1, Math.floor(share * recoveries.length))];
    return ms === undefined ? 'none' : seconds(ms);
  };
  const sum = (of: (run: RunResult) => number): string =>
    runs.reduce((total, run) => total + of(run), 0).toLocaleString('en-US');
  const faults = ({ scenario }: RunResult): number =>
    scenario.steps.filter((step) => step.kind === 'fault' && step.fault.kind !== 'back_up').length;
  const cells: [string, string][] = [
    ['runs', String(runs.length)],
    ['faults', sum(faults)],
    ['confirmed', sum(({ confirmed }) => confirmed)],
    ...CATEGORIES.map((category): [string, string] => [
      category.replace('_', ' '),
      String(countOf(findings, category)),
    ]),
    ['telling samples', sum(({ telling }) => telling)],
    ['time to recover p50 / p95 / max', `${percentile(0.5)} / ${percentile(0.95)} / ${percentile(1)}`],
  ];
  const row = (texts: readonly string[]): string => `| ${texts.join(' | ')} |`;
  return [
    row(cells.map(([head]) => head)),
    row(cells.map(() => '---')),
    row(cells.map(([, cell]) => cell)),
  ].join('\n');
}

/** Writes down everything about a run that found something; gives the folder. */
export async function keepArtefacts(run: RunResult, parent: string): Promise<string> {
  const folder = join(parent, `seed-${run.scenario.seed}`);
  await mkdir(folder, { recursive: true });
  const { ledger, stores, ...told } = run.evidence;
  const json = (value: unknown): string =>
    JSON.stringify(value, (_, one: unknown) => (one instanceof Map ? Object.fromEntries(one) : one), 1);
  await Promise.all(
    Object.entries({
      'findings.json': json(run.findings),
      'scenario.json': json(run.scenario),
      'ledger.json': json(ledger),
      'stores.json': json(stores),
      'answers.json': json(told),
      'run.log': run.log.join('\n'),
      'abide.log': run.output,
    }).map(([name, text]) => writeFile(join(folder, name), text)),
  );
  return folder;
}
