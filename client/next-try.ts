import type { AbideProblem } from './problem.ts';

const BACKOFF_MS = 100;
const BACKOFF_MS_MAX = 5_000;

/**
 * How long to wait before the same call is tried again, in milliseconds; undefined: it is not. Twice as long after each try,
 * and at least as long as the answer asks; half of it by chance, so that those who failed together do not come back together.
 */
export function nextTryMs(
  { retryable, retryAfterSeconds = 0 }: Pick<AbideProblem, 'retryable' | 'retryAfterSeconds'>,
  {
    isRepeatable,
    tries,
    triesMax,
    leftMs,
    chance,
  }: {
    /** A second time does what once does. */
    readonly isRepeatable: boolean;
    /** So many were made. */
    readonly tries: number;
    readonly triesMax: number;
    readonly leftMs: number;
    /** From 0 to 1. */
    readonly chance: number;
  },
): number | undefined {
  if (!retryable || !isRepeatable || tries >= triesMax) return undefined;
  const backoffMs = Math.min(BACKOFF_MS_MAX, BACKOFF_MS * 2 ** (tries - 1));
  const waitMs = retryAfterSeconds * 1_000 + backoffMs * (0.5 + 0.5 * chance);
  return waitMs < leftMs ? waitMs : undefined;
}
