// A line can die without a word to either end of it. Debezium waits at such a one for ever, and Connect says that its task runs.

/** Debezium brings a heartbeat every second. */
const SILENT_MS_MIN = 30_000;
const SILENT_MS_MAX = 600_000;

/**
 * Tells at each look whether a task is to be restarted, since it says that it runs and brought nothing for long, not even its
 * heartbeat. It may as well read its way through much log that is none of ours, and begins that anew with a restart: so what
 * follows a restart is waited for twice as long as what came before it, until something comes.
 */
export function createSilentTask(): (look: {
  /** Where the topics end that it writes; undefined where the brokers do not say. */
  readonly ends: string | undefined;
  readonly runs: boolean;
  readonly nowMs: number;
}) => boolean {
  let before: string | undefined;
  let sinceMs = 0;
  let patienceMs = SILENT_MS_MIN;
  return ({ ends, runs, nowMs }) => {
    const isKnown = before !== undefined && ends !== undefined;
    const hasGrown = isKnown && before !== ends;
    before = ends;
    if (hasGrown) patienceMs = SILENT_MS_MIN;
    // What of it brokers had that did not answer is not known, and Connect finds them again no sooner than we do.
    if (!isKnown || hasGrown || !runs) sinceMs = nowMs;
    if (nowMs - sinceMs < patienceMs) return false;
    sinceMs = nowMs;
    patienceMs = Math.min(SILENT_MS_MAX, 2 * patienceMs);
    return true;
  };
}
