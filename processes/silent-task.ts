// A line can die without a word to either end of it. Debezium waits on such a line for ever, and Connect says that its task runs.
// Connect may also show for good that a task is about to run.

/** Debezium brings a heartbeat every second. */
const SILENT_MS_MIN = 30_000;
const SILENT_MS_MAX = 600_000;

/**
 * Tells at each look whether a task is to be restarted, because it has not come on for long although it should. The task may as
 * well be reading its way through much log that is none of ours, and a restart makes it begin that anew. So after a restart it is
 * given twice as long as before, until something comes.
 */
export function createSilentTask(): (look: {
  /** How far it is (say, where the topics that it writes end): another text once it came on. Undefined: it cannot tell. */
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
    // If brokers did not answer, its progress there is not known, and Connect finds them again no sooner than we do.
    if (!isKnown || cameOn || !isDue) sinceMs = nowMs;
    if (nowMs - sinceMs < patienceMs) return false;
    sinceMs = nowMs;
    patienceMs = Math.min(SILENT_MS_MAX, 2 * patienceMs);
    return true;
  };
}
