/**
 * For what is promised within a second or two, of an API key that was revoked for example: a machine that is busy takes longer, and
 * what is wrong never comes, or after minutes.
 */
export const SOON_MS = 10_000;

const PAUSE_MS_MIN = 5;
const PAUSE_MS_MAX = 50;

/** Repeats until it neither throws nor rejects, and gives what it gave; after `withinMs` the last failure is thrown. */
export async function eventually<T>(check: () => T | Promise<T>, withinMs = 60_000): Promise<T> {
  const began = performance.now();
  for (;;) {
    try {
      return await check();
    } catch (error) {
      const waitedMs = performance.now() - began;
      if (waitedMs > withinMs) throw error;
      // A long wait may be noticed later: asking without a pause would take the processor from what is waited for.
      const pauseMs = Math.min(Math.max(waitedMs / 20, PAUSE_MS_MIN), PAUSE_MS_MAX);
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }
}
