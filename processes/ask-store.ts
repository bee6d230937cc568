// A store as a command asks it: opened for one question and closed again.
import { untilAborted } from '../connectors/contract/until-aborted.ts';
import type { Store } from '../connectors/contract/connector.ts';
import type { StoreConfiguration } from '../config/configuration.ts';
import { AbideError } from '../suppression/errors.ts';
import { quietLog } from './log.ts';

const CALL_MS_MAX = 10_000;

/** Calls the store. Throws STORE_TIMEOUT if the call is not over in time. */
export type Call = <T>(work: (signal: AbortSignal) => Promise<T>) => Promise<T>;

/** Opens a store, asks it, and closes it: a connector that never answers does not hold up the command. */
export async function askStore<T>(
  { name, connector, options, scopes }: StoreConfiguration,
  question: (open: Store, call: Call) => Promise<T>,
  callMsMax = CALL_MS_MAX,
): Promise<T> {
  async function inTime<R>(lacks: string, work: (signal: AbortSignal) => Promise<R>): Promise<R> {
    const ending = new AbortController();
    // Not AbortSignal.timeout: if nothing else keeps the process alive, it would be gone before that, without a word.
    const timer = setTimeout(() => {
      const says = `The store did not ${lacks} within ${callMsMax / 1000} s.`;
      ending.abort(new AbideError('STORE_TIMEOUT', says));
    }, callMsMax);
    try {
      return await untilAborted(work(ending.signal), ending.signal);
    } finally {
      clearTimeout(timer);
    }
  }
  const open = await inTime('open', () => connector.open(options, { log: quietLog, name, scopes }));
  const close = (): Promise<void> => inTime('close', async () => open[Symbol.asyncDispose]());
  try {
    const answer = await question(open, (work) => inTime('answer', work));
    await close();
    return answer;
  } catch (error) {
    await close().catch(() => undefined);
    throw error;
  }
}
