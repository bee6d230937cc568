// The API over the real ledger, with a carrier of files beside it that a test may stop and start.
import { createApp } from '../../../api/app.ts';
import { startImports } from '../../../api/import/carry.ts';
import { listen } from '../../../api/server.ts';
import type { ImportAnswer, ImportErrorsAnswer } from '../../../api/v2/imports.ts';
import type { KeyLimits } from '../../../ledger/contract/api-keys.ts';
import type { OpenLedger } from '../../../ledger/open-ledger.ts';
import type { DeclaredScopes } from '../../../suppression/scope.ts';
import { eventually } from '../../harness/eventually.ts';
import { createSend } from '../../harness/http.ts';
import type { Answer, Send } from '../../harness/http.ts';
import { freshLedger } from '../../harness/ledger.ts';
import type { TestLedger } from '../../harness/ledger.ts';
import { CLIENT_SCOPES } from '../serving.ts';

export type ServedImports = AsyncDisposable & {
  readonly t: TestLedger;
  readonly url: string;
  readonly send: Send;
  /** A key of client `shop`. */
  readonly key: string;
  /** Everything that was logged. */
  readonly log: { fields: object; message: string }[];
  makeKey(fields: {
    client?: string;
    scopes?: readonly string[];
    limits?: KeyLimits;
  }): Promise<{ id: string; token: string }>;
  post(file: string | Buffer, query?: string, more?: { key?: string; type?: string }): Promise<Answer>;
  read(id: string): Promise<ImportAnswer>;
  /** Resolves once it has come to an end, or waits for somebody. */
  untilSettled(id: string): Promise<ImportAnswer>;
  /** Posts a file and gives what became of it. */
  import(file: string | Buffer, query?: string, type?: string): Promise<ImportAnswer>;
  errors(id: string, query?: string): Promise<ImportErrorsAnswer>;
  /** A process that carries files begins to do so, on this ledger or its own. */
  carry(ledger?: OpenLedger): Promise<AsyncDisposable>;
};

const DECLARED: DeclaredScopes = {
  topics: { email: ['news'], sms: ['offers'] },
  purposes: ['analytics', 'profiling'],
};
const SETTLED: readonly string[] = ['done', 'failed', 'cancelled', 'awaiting_approval'];

/** `isCarried`: false if a test is about what comes before. */
export async function serveImports({
  approveAboveRows,
  isCarried = true,
}: { approveAboveRows?: number; isCarried?: boolean } = {}): Promise<ServedImports> {
  const stack = new AsyncDisposableStack();
  const t = stack.use(await freshLedger());
  const log: ServedImports['log'] = [];
  const add = (fields: object, message: string) => void log.push({ fields, message });
  const logs = { warn: add, error: add };
  const { handler } = createApp({
    ledger: t.ledger,
    log: logs,
    declared: DECLARED,
    defaultRegion: 'CH',
    approveAboveRows,
    opsOnSameListener: true,
  });
  const listening = await listen(handler, { host: '127.0.0.1', port: 0 });
  stack.defer(() => listening.close());
  const send = createSend(listening.url);
  const carry: ServedImports['carry'] = (ledger = t.ledger) =>
    Promise.resolve(stack.use(startImports({ ledger, log: logs })));
  if (isCarried) await carry();

  const makeKey: ServedImports['makeKey'] = async ({ client = 'shop', scopes = CLIENT_SCOPES, limits }) => {
    const fields = { client, scopes, store: undefined, expiresAt: undefined, caller: undefined };
    const { key, token } = await t.ledger.createKey({ ...fields, limits });
    return { id: key.id, token };
  };
  const key = (await makeKey({})).token;
  const post: ServedImports['post'] = (file, query = 'scopes=email', more = {}) =>
    send('POST', `/v2/imports?${query}`, {
      key: more.key ?? key,
      body: file,
      headers: { 'content-type': more.type ?? 'text/csv' },
    });
  const read = async (id: string): Promise<ImportAnswer> =>
    (await send('GET', `/v2/imports/${id}`, { key })).json as ImportAnswer;
  const untilSettled: ServedImports['untilSettled'] = (id) =>
    eventually(async () => {
      const answer = await read(id);
      if (!SETTLED.includes(answer.state)) throw new Error(`it is ${JSON.stringify(answer)}`);
      return answer;
    });
  return {
    t,
    url: listening.url,
    send,
    key,
    log,
    makeKey,
    post,
    read,
    untilSettled,
    import: async (file, query, type) => {
      const { status, json, text } = await post(file, query, type === undefined ? {} : { type });
      if (status !== 202) throw new Error(`answered ${status}: ${text}`);
      return await untilSettled((json as ImportAnswer).id);
    },
    errors: async (id, query = '') =>
      (await send('GET', `/v2/imports/${id}/errors?${query}`, { key })).json as ImportErrorsAnswer,
    carry,
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

/** A file of many people, each once. */
export const csvOf = (people: number, from = 0): string =>
  `email\n${Array.from({ length: people }, (_, n) => `p${from + n}@example.com\n`).join('')}`;
