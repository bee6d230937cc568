// May a sender send? One set-based look at the current states. No answer means do not send.
import type { Suppressed } from '../suppression/decision.ts';
import { channelOfTopic, coveredBy, isChannel } from '../suppression/scope.ts';
import type { CheckAnswer, CheckItem } from './contract/checks.ts';
import { toMilliseconds } from './database.ts';
import type { Queryable } from './database.ts';
import type { KeyRing } from './key-ring.ts';

const SENDABLE: CheckAnswer = {
  canSend: true,
  reason: undefined,
  optOutId: undefined,
  effectiveAt: undefined,
};

const blocked = (reason: 'opted_out' | 'topic_required', held: Suppressed): CheckAnswer => ({
  canSend: false,
  reason,
  optOutId: held.opt_out_id,
  effectiveAt: held.first_effective_at,
});

/** What one subject's state says of a scope; undefined: nothing forbids sending. */
function judge(
  state: Readonly<Record<string, Suppressed>>,
  { scope, isDeclared }: CheckItem,
): CheckAnswer | undefined {
  const held = coveredBy(state, scope);
  if (held !== undefined) return blocked('opted_out', held);
  const channel = isChannel(scope) ? scope : isDeclared ? undefined : channelOfTopic(scope);
  if (channel === undefined) return undefined;
  const someTopic = Object.keys(state).find((one) => channelOfTopic(one) === channel);
  return someTopic === undefined ? undefined : blocked('topic_required', state[someTopic]!);
}

/** Answers in order. One suppressed identifier suppresses the item; an unknown subject may be sent to. */
export async function checkSendable(
  db: Queryable,
  ring: KeyRing,
  items: readonly CheckItem[],
): Promise<{ asOf: string; items: readonly CheckAnswer[] }> {
  const keys = items.map((item) => item.subjects.flatMap((subject) => ring.matchKeys(subject)));
  const { rows } = await db.query<{
    as_of: string;
    keys: Buffer[] | null;
    states: Record<string, Suppressed>[] | null;
  }>({
    name: 'check-sendable',
    // One row out, so that a call costs the same few round-trip bytes for the thousands who never opted out.
    text: `select clock_timestamp() as as_of, array_agg(s.match_key) as keys, json_agg(s.state) as states
           from subjects s where s.match_key = any ($1::bytea[]) and is_newest_pepper($2) and s.state <> '{}'`,
    values: [keys.flat(), ring.pepperId],
  });
  const row = rows[0]!;
  const states = new Map<string, Readonly<Record<string, Suppressed>>>();
  row.keys?.forEach((key, n) => states.set(key.toString('latin1'), row.states![n]!));
  const answers = items.map((item, n): CheckAnswer => {
    let topicRequired: CheckAnswer | undefined;
    if (states.size > 0) {
      for (const key of keys[n]!) {
        const state = states.get(key.toString('latin1'));
        const answer = state === undefined ? undefined : judge(state, item);
        if (answer?.reason === 'opted_out') return answer;
        topicRequired ??= answer;
      }
    }
    return topicRequired ?? SENDABLE;
  });
  return { asOf: toMilliseconds(row.as_of), items: answers };
}
