// What a store suppresses without having been told to: somebody unsubscribed there. If the configuration says so, it is recorded as
// an opt-out, so that every other store abides too.
import { channelOfTopic } from './scope.ts';
import type { SubjectKind } from './subject-kind.ts';

/** Where to go on with a store's own list, for people whom only the store knows. */
export type ListingPage = {
  readonly generation: number;
  /** How many pages of this list were taken: each is taken once. */
  readonly pages: number;
  /** Undefined: from the beginning. */
  readonly after: ListedKey | undefined;
  /** Scopes that are recorded when the store suppresses them by itself. */
  readonly scopes: readonly string[];
  /** How long to rest before the next page: 0 if somebody waits for it. */
  readonly pauseMs: number;
};

export type ListedKey = { readonly kind: SubjectKind; readonly key: string };

/** What a store listed; people whom it does not suppress are only counted. */
export type Listed = {
  /** The last entry that was looked at; undefined: there was none. */
  readonly through: ListedKey | undefined;
  readonly isLast: boolean;
  readonly listed: number;
  readonly suppressed: readonly (ListedKey & { readonly scopes: readonly string[] })[];
};

/**
 * Which of a store's own suppressions are to be recorded: nothing that is decided already, and no topic of a channel that is
 * decided, since a store may show its topics as suppressed wherever the channel is.
 */
export function toBeRecorded(
  own: readonly string[],
  recorded: readonly string[],
  decided: Readonly<Record<string, unknown>>,
): string[] {
  const scopes = own.filter((scope) => recorded.includes(scope) && decided[scope] === undefined);
  return scopes.filter((scope) => {
    const channel = channelOfTopic(scope);
    return channel === undefined || (decided[channel] === undefined && !scopes.includes(channel));
  });
}

/** What is recorded of a store that holds these scopes: those, and the topics declared for its channels. */
export const recordedOf = (
  store: { readonly scopes: readonly string[]; readonly topics: boolean },
  topics: Readonly<Partial<Record<string, readonly string[]>>>,
): string[] => [
  ...new Set(
    store.scopes.flatMap((scope) => [
      scope,
      ...(store.topics ? (topics[scope] ?? []).map((topic) => `${scope}/${topic}`) : []),
    ]),
  ),
];
