// A line can die without a word to either end of it. Debezium waits at such a one for ever, and Connect says that its task runs.
// And Connect may show for good that a task is about to run.

/** Debezium brings a heartbeat every second. */
const SILENT_MS_MIN = 30_000;
const SILENT_MS_MAX = 600_000;

/**
 * Tells at each look whether a task is to be restarted, since for long it has not come on while it should. It may as well read
 * its way through much log that is none of ours, and begins that anew with a restart: so what follows a restart is waited for
 * twice as long as what came before it, until something comes.
 */
export function createSilentTask(): (look: {
  /** How far it is (where the topics end that it writes, say): another text once it came on. Undefined where it cannot be told. */
  readonly progress: string | undefined;
  /** Whether it should come on. */
  readonly isDue: boolean;
  readonly nowMs: number;
}) => boolean {
  let before: string | undefined;
  let sinceMs = 0;
  let patienceMs = SILENT_MS_MIN;
  return ({ progress, isDue, nowMs }) => {
    const isKnown = before !== undefined && progress !== undefined;
    const cameOn = isKnown && before !== progress;
    before = progress;
    if (cameOn) patienceMs = SILENT_MS_MIN;
    // What of it brokers had that did not answer is not known, and Connect finds them again no sooner than we do.
    if (!isKnown || cameOn || !isDue) sinceMs = nowMs;
    if (nowMs - sinceMs < patienceMs) return false;
    sinceMs = nowMs;
    patienceMs = Math.min(SILENT_MS_MAX, 2 * patienceMs);
    return true;
  };
}
