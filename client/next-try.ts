import type { AbideProblem } from './problem.ts';

const BACKOFF_MS = 100;
const BACKOFF_MS_MAX = 5_000;

/**
 * How long to wait before the same call is tried again, in milliseconds; undefined: it is not. The pause doubles after each try,
 * and half of it is random, so that those who failed together do not come back together; what the answer asks for is added.
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
    /** Sending it twice does what sending it once does. */
    readonly isRepeatable: boolean;
    /** How many tries were made. */
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
