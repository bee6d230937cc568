// How far long work is: a bar in the last line of a terminal, or a line now and then if nobody looks at one.
import { printProgress, sayDuration } from './output.ts';

const REDRAWN_MS = 200;
const LINE_MS = 5_000;
const PACE_MS = 30_000;
const BAR_MAX = 30;
/** With less room than this, a bar says nothing. */
const BAR_MIN = 10;

/** How many a second, over the last half minute; undefined if that cannot be said yet. */
export type Pace = (done: number, nowMs: number) => number | undefined;

export function createPace(): Pace {
  let seen: { readonly done: number; readonly at: number }[] = [];
  return (done, at) => {
    // It began anew.
    if (done < (seen.at(-1)?.done ?? 0)) seen = [];
    // The last one before that is where the half minute begins.
    const first = seen.findLastIndex((one) => at - one.at >= PACE_MS);
    seen = [...seen.slice(Math.max(0, first)), { done, at }];
    const from = seen[0]!;
    return at > from.at ? ((done - from.done) * 1_000) / (at - from.at) : undefined;
  };
}

export type Amount = {
  readonly what: string;
  readonly done: number;
  /** Undefined: it is not known. */
  readonly total: number | undefined;
  readonly say: (amount: number) => string;
  readonly unit: string;
  readonly aSecond: number | undefined;
  /** What else there is to say. */
  readonly more?: string | undefined;
};

/** One line, as wide as it may be; with an undefined width, without a bar. */
export function drawAmount(
  { what, done, total, say, unit, aSecond, more }: Amount,
  width: number | undefined,
): string {
  const share = total === undefined ? undefined : total === 0 ? 1 : Math.min(1, done / total);
  const left =
    total !== undefined && aSecond !== undefined && aSecond > 0 && done < total
      ? `${sayDuration(Math.ceil((total - done) / aSecond))} left`
      : undefined;
  const text = [
    ...(share === undefined ? [] : [`${String(Math.floor(share * 100)).padStart(3)}%`]),
    `${say(done)}${total === undefined ? '' : ` of ${say(total)}`}${unit}`,
    ...(aSecond === undefined || done === total ? [] : [`${say(Math.round(aSecond))}${unit}/s`]),
    ...(left === undefined ? [] : [left]),
    ...(more === undefined ? [] : [more]),
  ].join('  ');
  if (width === undefined) return `${what}: ${text.trim()}`;
  const room = Math.min(BAR_MAX, width - what.length - text.length - 5);
  if (share === undefined || room < BAR_MIN) return `${what}  ${text.trim()}`.slice(0, width - 1);
  const full = Math.floor(share * room);
  return `${what}  ${'█'.repeat(full)}${'░'.repeat(room - full)}  ${text}`;
}

/** Shows what `line` says until it is ended, which leaves a terminal's line empty. */
export function showProgress(line: (width: number | undefined) => string): Disposable {
  const { stderr } = process;
  let shown: string | undefined;
  const draw = (): void => {
    const next = line(stderr.columns);
    if (next !== shown) printProgress(next);
    shown = next;
  };
  if (stderr.isTTY) draw();
  const timer = stderr.isTTY
    ? setInterval(draw, REDRAWN_MS)
    : setInterval(() => stderr.write(`${line(undefined)}\n`), LINE_MS);
  return {
    [Symbol.dispose]: () => {
      clearInterval(timer);
      printProgress('');
    },
  };
}

const BYTES = ['B', 'kB', 'MB', 'GB'] as const;

/** 512 B, 1.2 MB. */
export function sayBytes(bytes: number): string {
  const step = bytes < 1_000 ? 0 : Math.min(BYTES.length - 1, Math.floor(Math.log10(bytes) / 3));
  return `${step === 0 ? bytes : (bytes / 1_000 ** step).toFixed(1)} ${BYTES[step]}`;
}
