// Clients as they should be: each repeats its request, under the same key where it has one, until it is answered.
import type { Answer } from '../pipeline/system.ts';
import type { OptOut } from './scenario.ts';

/** What one client was told of one request. */
export type Answered = {
  readonly email: string;
  readonly scopes: readonly string[];
  readonly key: string | undefined;
  readonly opt_out_id: string;
  readonly outcome: string;
  readonly attempts: number;
  readonly answeredAt: number;
};

export type Clients = {
  /** Sends them all, without waiting. */
  send(optOuts: readonly OptOut[]): void;
  /** Waits until every request is answered, at most so long; gives what was asked and never answered. */
  finish(
    withinMs: number,
  ): Promise<readonly { readonly email: string; readonly scopes: readonly string[] }[]>;
  readonly answered: readonly Answered[];
};

const PAUSE_MS = 20;

export function createClients({
  post,
  emailOf,
  onAnswer,
  say,
}: {
  post: (body: object, headers: object) => Promise<Answer>;
  emailOf: (who: number) => string;
  onAnswer: (email: string, scopes: readonly string[], recordedAt: number) => void;
  say: (what: string) => void;
}): Clients {
  const answered: Answered[] = [];
  const open = new Set<{ readonly email: string; readonly scopes: readonly string[] }>();
  const sending: Promise<void>[] = [];
  let requests = 0;
  let stopping = false;

  async function send(email: string, scopes: readonly string[], key: string | undefined): Promise<void> {
    const request = { email, scopes };
    open.add(request);
    const body = { subject: { email }, scope: Object.fromEntries(scopes.map((scope) => [scope, true])) };
    for (let attempts = 1; !stopping; attempts += 1) {
      const answer = await post(body, key === undefined ? {} : { 'idempotency-key': key }).catch(
        () => undefined,
      );
      if (answer !== undefined && answer.status < 300) {
        const {
          id,
          outcome,
          recorded_at: recordedAt,
        } = JSON.parse(answer.text) as Record<'id' | 'outcome' | 'recorded_at', string>;
        onAnswer(email, scopes, Date.parse(recordedAt));
        answered.push({ email, scopes, key, opt_out_id: id, outcome, attempts, answeredAt: Date.now() });
        open.delete(request);
        return;
      }
      if (answer !== undefined && ![409, 429, 503].includes(answer.status))
        say(`a client was answered ${answer.status}: ${answer.text}`);
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }

  return {
    answered,
    send(optOuts) {
      for (const { who, scopes, keyed, clients } of optOuts) {
        const key = keyed ? `chaos-${(requests += 1)}` : undefined;
        for (let n = 0; n < clients; n += 1) sending.push(send(emailOf(who), scopes, key));
      }
    },
    async finish(withinMs) {
      const late = setTimeout(() => {
        stopping = true;
      }, withinMs);
      await Promise.all(sending);
      clearTimeout(late);
      return [...open];
    },
  };
}
