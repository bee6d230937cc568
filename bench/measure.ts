// What every benchmark shares: rounds that alternate with the peer's, medians, percentiles, a table.
import { print } from '../cli/output.ts';

export const median = (values: readonly number[]): number => percentile(values, 0.5);

export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? NaN;
}

/** Runs each contender once per round, in turn, and gives the median of each over the rounds. */
export async function alternate<Name extends string>(
  rounds: number,
  contenders: Readonly<Record<Name, () => Promise<number>>>,
): Promise<Record<Name, number>> {
  const names = Object.keys(contenders) as Name[];
  const figures = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Name, number[]>;
  for (let round = 0; round < rounds; round += 1) {
    for (const name of names) figures[name].push(await contenders[name]());
  }
  return Object.fromEntries(names.map((name) => [name, median(figures[name])])) as Record<Name, number>;
}

export const count = (value: number): string => Math.round(value).toLocaleString('en');
export const ms = (value: number): string => `${value < 10 ? value.toFixed(2) : value.toFixed(1)} ms`;
export const times = (value: number): string => `${value.toFixed(2)} ×`;

/** One line of judgement under a table: what must be reached, and whether it was. */
export function judge(
  what: string,
  value: number,
  bound: { atLeast?: number; atMost?: number },
  unit = '',
): void {
  const reached = value >= (bound.atLeast ?? -Infinity) && value <= (bound.atMost ?? Infinity);
  const asked = bound.atLeast === undefined ? `at most ${bound.atMost}` : `at least ${bound.atLeast}`;
  print(`${reached ? 'reached' : 'MISSED '}  ${what}: ${value.toFixed(2)}${unit} (${asked}${unit})`);
}
