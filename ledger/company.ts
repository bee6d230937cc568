// Whether those who could be recorded now should wait for others, to share a transaction with them. A transaction, and all that
// follows from its commit up to the acknowledgements, costs nearly the same for four opt-outs as for one, and what it costs delays all
// the others. (At 500/s, on two slow cores, decisions were verified 4.0 ms after their commit instead of 5.8, and answers took 1 ms
// longer.) But whoever waits in vain only loses time: so nobody waits unless others came while the last transaction was under
// way, only as long as they go on coming, and more and more rarely if they do not.

/** This many do not wait for others. */
export const FEW = 4;
/** Nobody waits longer than this after the last transaction began, nor than GAP_MS after the last of those who wait came. */
const PATIENCE_MS = 10;
const GAP_MS = 3;
/** After a wait in which nobody came, the next transactions begin at once: one, then twice as many after each such wait, up to this. */
const AT_ONCE_MAX = 64;

export type Company = {
  /** Somebody came. `overlapping`: while a transaction was under way. */
  came(overlapping: boolean): void;
  /** For how many milliseconds `waiting` of them should go on waiting if no transaction is under way; 0: not at all. */
  patienceMs(waiting: number): number;
  /** A transaction begins, and so many waited for it. */
  began(waiting: number): void;
};

export function createCompany(now: () => number = () => performance.now()): Company {
  let beganAt = -Infinity;
  let cameAt = -Infinity;
  let overlapped = false;
  /** How many there were when they began to wait; undefined while nobody waits. */
  let waitedFrom: number | undefined;
  let toBeginAtOnce = 0;
  let nextToBeginAtOnce = 1;

  return {
    came: (overlapping) => {
      cameAt = now();
      overlapped ||= overlapping;
    },
    patienceMs: (waiting) => {
      if (!overlapped || toBeginAtOnce > 0 || waiting >= FEW) return 0;
      const ms = Math.max(0, Math.min(beganAt + PATIENCE_MS, cameAt + GAP_MS) - now());
      if (ms > 0) waitedFrom ??= waiting;
      return ms;
    },
    began: (waiting) => {
      if (waitedFrom === undefined) toBeginAtOnce = Math.max(0, toBeginAtOnce - 1);
      else if (waiting > waitedFrom) nextToBeginAtOnce = 1;
      else {
        toBeginAtOnce = nextToBeginAtOnce;
        nextToBeginAtOnce = Math.min(AT_ONCE_MAX, nextToBeginAtOnce * 2);
      }
      waitedFrom = undefined;
      overlapped = false;
      beganAt = now();
    },
  };
}
