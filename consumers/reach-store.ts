// The store as its worker reaches it: opened once, by whichever caller needs it first, and never called without a time limit.
import { untilAborted } from '../connectors/contract/until-aborted.ts';
import type { Connector, Log, Store } from '../connectors/contract/connector.ts';

export type WorkerStore = {
  readonly name: string;
  readonly connector: Connector;
  readonly options: unknown;
  readonly scopes: ReadonlyMap<string, unknown>;
  readonly accepts: readonly string[];
  /** What the store is keyed by, from the address in its normal form. */
  readonly makeKey: (value: string) => string;
  /** The key is the address itself, so the store's list says whom it means. */
  readonly isPlain: boolean;
};

export type StoreReach = ReturnType<typeof reachStore>;

export function reachStore({
  store: { name, connector, options, scopes },
  callMsMax,
  log,
}: {
  store: WorkerStore;
  callMsMax: number;
  log: Log;
}) {
  let opening: Promise<Store> | undefined;

  /** A connector that ignores its signal must not hold up the worker either. */
  function call<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const deadline = AbortSignal.timeout(callMsMax);
    return untilAborted(work(deadline), deadline);
  }

  return {
    call,
    /** After an opening that failed or took too long the next caller tries again. */
    open(): Promise<Store> {
      if (opening === undefined) {
        const opened = connector.open(options, { log, name, scopes });
        const inTime = call(() => opened);
        opening = inTime;
        inTime.catch(() => {
          opening = undefined;
          // It was given up but opened after all: nobody will use it.
          opened.then((late) => late[Symbol.asyncDispose]()).catch(() => undefined);
        });
      }
      return opening;
    },
    async close(): Promise<void> {
      try {
        const open = await opening;
        // Abide and its database stop only after its workers have: this must end as well.
        if (open !== undefined) await call(async () => open[Symbol.asyncDispose]());
      } catch (error) {
        log.debug({ store: name, error }, 'the store was not closed cleanly');
      }
    },
  };
}
