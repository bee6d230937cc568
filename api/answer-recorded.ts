// The answer to what was recorded: the text that is kept with it and, if the client waits, its current propagation.
import type { Context } from 'koa';
import { z } from 'zod';
import type { RecordAnswer } from '../ledger/contract/opt-outs.ts';
import type { Propagation } from '../ledger/contract/propagation.ts';
import type { Channel, Scope } from '../suppression/scope.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { unreachedChannels } from '../suppression/subject.ts';
import type { Deps } from './deps.ts';
import { authorizedOf } from './guard/authorize.ts';
import { goneSignal, PREFERENCE_APPLIED, waited } from './guard/prefer.ts';
import { placeOf } from './guard/rooms.ts';
import type { HeaderField } from './operation.ts';

export const RECORDED_HEADERS: Readonly<Record<string, HeaderField>> = {
  Location: { description: 'Where to read it back.', schema: z.string() },
  'Idempotency-Replayed': {
    description:
      'This key was answered before: status and body are those of that answer, byte for byte, except the propagation under `Prefer: wait`.',
    schema: z.literal('true'),
  },
  ...PREFERENCE_APPLIED,
};

const IDENTIFIER: Readonly<Record<Channel, string>> = {
  email: 'an email address',
  sms: 'a phone number',
  push: 'a push token',
};

/** Which channels that were asked for reach the person by an identifier that was not given. */
export const unreachedWarnings = (kinds: readonly SubjectKind[], asked: readonly Scope[]) =>
  unreachedChannels(kinds, asked).map((channel) => ({
    code: 'channel_needs_other_identifier' as const,
    channel,
    detail: `${channel} reaches people by ${IDENTIFIER[channel]}: opt that out as well.`,
  }));

/** Answers status, text and headers; `wait`, in seconds, holds the answer until every required store has confirmed. */
export async function answerRecorded(
  ctx: Context,
  { ledger, log, closing }: Pick<Deps, 'ledger' | 'log' | 'closing'>,
  {
    status,
    body,
    replayed,
    decisions,
    id,
    location,
    wait,
    toMember,
  }: Pick<RecordAnswer, 'status' | 'body' | 'replayed' | 'decisions'> & {
    readonly id: string;
    readonly location: string;
    readonly wait: number | undefined;
    /** The member `propagation` in the words of this version. */
    readonly toMember: (propagation: Propagation) => object;
  },
): Promise<void> {
  // From here on it is recorded: whatever happens to the waiting, and even if there is no room to wait, the answer is the recorded
  // one.
  const live =
    wait === undefined || (wait > 0 && !placeOf(ctx).tryMoveTo('waits'))
      ? undefined
      : await ledger
          .waitForPropagation(id, wait * 1000, goneSignal(ctx, closing), decisions)
          .catch((error: unknown) => {
            const { requestId } = authorizedOf(ctx).caller;
            log.warn({ error, requestId }, 'recorded, but its propagation cannot be read');
            return undefined;
          });
  ctx.status = status;
  ctx.set('Location', location);
  if (replayed) ctx.set('Idempotency-Replayed', 'true');
  ctx.type = 'application/json';
  if (live === undefined) ctx.body = body;
  else {
    waited(ctx, wait);
    ctx.body = withPropagation(body, toMember(live));
  }
}

/** The propagation is the last member of what was stored: the rest stays byte for byte. */
const withPropagation = (body: string, propagation: object): string =>
  `${body.slice(0, body.lastIndexOf('"propagation":'))}"propagation":${JSON.stringify(propagation)}}`;
