// What keeps the ledger of a process moving while nobody asks anything of it.
import { Bell } from './bell.ts';
import { asLedgerError } from './database.ts';

export type Job = {
  readonly name: string;
  /** Between its end and its next start; it waits before its first start as well. */
  readonly pauseMs: number;
  readonly run: () => Promise<void>;
};

/** Repeats each job until the signal ends it. A failure is logged once, and the job is tried again. Resolves once all have ended. */
export async function repeatJobs(
  jobs: readonly Job[],
  {
    log,
    signal,
  }: {
    readonly log: Record<'info' | 'warn', (fields: object, message: string) => void>;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const repeat = async ({ name, pauseMs, run }: Job): Promise<void> => {
    const idle = new Bell();
    let failing = false;
    for (;;) {
      await idle.wait(pauseMs, signal);
      if (signal.aborted) return;
      try {
        await run();
        if (failing) log.info({ job: name }, 'ledger job works again');
        failing = false;
      } catch (error) {
        if (!failing)
          log.warn({ job: name, error: asLedgerError(error) }, 'ledger job failed, will try again');
        failing = true;
      }
    }
  };
  await Promise.all(jobs.map(repeat));
}
