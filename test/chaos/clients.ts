// Clients as they should be: each repeats its request, under the same key if it has one, until it is answered.
import { setTimeout as delay } from 'node:timers/promises';
import type { Answer } from '../pipeline/system.ts';
import type { OptOut, Word } from './scenario.ts';

/** What one client was told of one request. Of one person's words, each was answered before the next was said. */
export type Answered = {
  readonly says: Word['says'];
  readonly email: string;
  readonly scopes: readonly string[];
  readonly key: string | undefined;
  /** The id of the opt-out or the grant; undefined if there was nothing to lift. */
  readonly id: string | undefined;
  readonly outcome: string;
  readonly attempts: number;
  readonly answeredAt: number;
};

/** It may have been recorded, or not. */
export type Unanswered = Pick<Answered, 'says' | 'email' | 'scopes'>;

export type Clients = {
  /** Sends them all, without waiting. */
  send(optOuts: readonly OptOut[]): void;
  /** One after the other, as one person. */
  say(who: number, words: readonly Word[]): void;
  /** Waits until every request is answered, at most this long; gives what was asked and never answered. */
  finish(withinMs: number): Promise<readonly Unanswered[]>;
  readonly answered: readonly Answered[];
};

const PAUSE_MS = 20;

export function createClients({
  post,
  emailOf,
  emailOfMind,
  onAnswer,
  onConsent,
  say,
}: {
  post: (path: string, body: object, headers: object) => Promise<Answer>;
  emailOf: (who: number) => string;
  /** The address of somebody whose mind changes. */
  emailOfMind: (who: number) => string;
  onAnswer: (email: string, scopes: readonly string[], recordedAt: number) => void;
  /** Called before a consent is sent. */
  onConsent: (email: string) => void;
  say: (what: string) => void;
}): Clients {
  const answered: Answered[] = [];
  const open = new Set<Unanswered>();
  const sending: Promise<void>[] = [];
  let requests = 0;
  let stopping = false;

  async function send(
    { says, email, scopes }: Unanswered,
    [path, body]: readonly [string, object],
    key: string | undefined,
  ): Promise<void> {
    const request = { says, email, scopes };
    open.add(request);
    for (let attempts = 1; !stopping; attempts += 1) {
      const answer = await post(path, body, key === undefined ? {} : { 'idempotency-key': key }).catch(
        () => undefined,
      );
      if (answer !== undefined && answer.status < 300) {
        const told = JSON.parse(answer.text) as Record<'outcome' | 'recorded_at', string> & { id?: string };
        if (says === 'no') onAnswer(email, scopes, Date.parse(told.recorded_at));
        const { id, outcome } = told;
        answered.push({ says, email, scopes, key, id, outcome, attempts, answeredAt: Date.now() });
        open.delete(request);
        return;
      }
      if (answer !== undefined && ![409, 429, 503].includes(answer.status))
        say(`a client was answered ${answer.status}: ${answer.text}`);
      await delay(PAUSE_MS);
    }
  }

  const optOutOf = (email: string, scopes: readonly string[]) =>
    [
      '/v1/opt-outs',
      { subject: { email }, scope: Object.fromEntries(scopes.map((scope) => [scope, true])) },
    ] as const;
  const EVIDENCE = { method: 'web_form', statement: 'Yes.', source: 'https://example.com/yes' };

  async function sayAll(email: string, words: readonly Word[]): Promise<void> {
    for (const { says, scopes } of words) {
      if (stopping) return;
      const key = `chaos-${(requests += 1)}`;
      if (says === 'no') {
        await send({ says, email, scopes }, optOutOf(email, scopes), key);
        continue;
      }
      onConsent(email);
      // A consent must be later than the opt-out, by whole milliseconds.
      await delay(2);
      const grant = {
        identifier: { email },
        scopes,
        granted_at: new Date().toISOString(),
        evidence: EVIDENCE,
      };
      await send({ says, email, scopes }, ['/v2/grants', grant], key);
    }
  }

  return {
    answered,
    send(optOuts) {
      for (const { who, scopes, keyed, clients } of optOuts) {
        const key = keyed ? `chaos-${(requests += 1)}` : undefined;
        const email = emailOf(who);
        for (let n = 0; n < clients; n += 1)
          sending.push(send({ says: 'no', email, scopes }, optOutOf(email, scopes), key));
      }
    },
    say(who, words) {
      sending.push(sayAll(emailOfMind(who), words));
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
