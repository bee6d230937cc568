// May a message be sent? No answer means do not send.
import type Router from '@koa/router';
import { z } from 'zod';
import type { CheckAnswer, CheckItem } from '../../ledger/ledger.ts';
import { isChannel } from '../../suppression/scope.ts';
import type { Subject } from '../../suppression/subject.ts';
import { parse, readJson } from '../guard/read-body.ts';
import type { Deps } from './deps.ts';
import { readSubject } from './subject.ts';

const ITEMS_MAX = 1_000;
/** A thousand items with several identifiers each. */
const BYTES_MAX = 1024 * 1024;
const SUBJECTS_MAX = 20;
const MEMBERS = ['ref', 'subject', 'subjects', 'channel', 'topic'];
const TOPIC = /^[a-z0-9][a-z0-9_.-]{0,62}$/;

const Envelope = z.strictObject({
  items: z.array(z.unknown()).max(ITEMS_MAX, `must have at most ${ITEMS_MAX} items`),
});

/** One item in one pass; a bad one is undefined, and is answered with "do not send". */
function readItem(value: unknown, defaultRegion: string | undefined): CheckItem | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  for (const name in value) if (!MEMBERS.includes(name)) return undefined;
  const { ref, subject, subjects, channel, topic } = value as Record<string, unknown>;
  if (typeof channel !== 'string' || !isChannel(channel)) return undefined;
  if (topic !== undefined && (typeof topic !== 'string' || !TOPIC.test(topic))) return undefined;
  if (ref !== undefined && (typeof ref !== 'string' || ref.length > 255)) return undefined;
  if ((subject === undefined) === (subjects === undefined)) return undefined;
  const given = subject === undefined ? subjects : [subject];
  if (!Array.isArray(given) || given.length < 1 || given.length > SUBJECTS_MAX) return undefined;
  const read: Subject[] = [];
  for (const one of given) {
    const each = readSubject(one, defaultRegion);
    if (each === undefined) return undefined;
    read.push(each);
  }
  return { subjects: read, channel, topic };
}

const refOf = (value: unknown): { ref?: string } => {
  const ref = typeof value === 'object' && value !== null ? (value as { ref?: unknown }).ref : undefined;
  return typeof ref === 'string' && ref.length <= 255 ? { ref } : {};
};

const render = (answer: CheckAnswer | undefined) =>
  answer === undefined
    ? { can_send: false, reason: 'invalid_item', opt_out_id: null, effective_at: null }
    : {
        can_send: answer.canSend,
        reason: answer.reason ?? null,
        opt_out_id: answer.optOutId ?? null,
        effective_at: answer.effectiveAt ?? null,
      };

export function addChecks(router: Router, { ledger, authorize, defaultRegion }: Deps): void {
  router.post('/v1/checks', authorize('checks:read'), async (ctx) => {
    const { items } = parse(Envelope, await readJson(ctx, BYTES_MAX));
    const read = items.map((item) => readItem(item, defaultRegion));
    const good = read.filter((item) => item !== undefined);
    const { asOf, items: answers } = await ledger.checkSendable(good);
    let next = 0;
    ctx.body = {
      as_of: asOf,
      items: read.map((item, n) => ({
        ...refOf(items[n]),
        ...render(item === undefined ? undefined : answers[next++]),
      })),
    };
  });
}
