/** What can be suppressed: a channel, a channel's topic (`email/newsletter`), or a processing purpose. */
export const CHANNELS = ['email', 'sms', 'push'] as const;
export type Channel = (typeof CHANNELS)[number];

export const PURPOSES = ['analytics', 'profiling', 'automated_decisions'] as const;
export type Purpose = (typeof PURPOSES)[number];

export type Scope = Channel | `${Channel}/${string}` | Purpose;

/** The topics and purposes that the configuration declares. */
export type DeclaredScopes = {
  readonly topics: Readonly<Partial<Record<Channel, readonly string[]>>>;
  readonly purposes: readonly Purpose[];
};

export const NOTHING_DECLARED: DeclaredScopes = { topics: {}, purposes: [] };

const TOPIC_FORM = '[a-z0-9][a-z0-9_.-]{0,62}';

/** The form of a topic's name, as it stands after its channel. */
export const TOPIC_NAME = new RegExp(`^${TOPIC_FORM}$`);

/** The form of a scope. */
export const SCOPE = new RegExp(`^(?:(?:${CHANNELS.join('|')})(?:/${TOPIC_FORM})?|${PURPOSES.join('|')})$`);

export const isChannel = (text: string): text is Channel => (CHANNELS as readonly string[]).includes(text);

/** Whether the text has the form of a scope. */
export const isScope = (text: string): text is Scope => SCOPE.test(text);

/** Whether it is a scope that can be refused here: channels always, topics and purposes if the configuration has them. */
export function isDeclared(text: string, { topics, purposes }: DeclaredScopes): text is Scope {
  if (!isScope(text)) return false;
  const channel = channelOfTopic(text);
  if (channel !== undefined) return topics[channel]?.includes(text.slice(channel.length + 1)) === true;
  return isChannel(text) || (purposes as readonly string[]).includes(text);
}

/** The channel of a topic; undefined for a channel itself and for a purpose. */
export function channelOfTopic(scope: string): Channel | undefined {
  const slash = scope.indexOf('/');
  return slash < 0 ? undefined : (scope.slice(0, slash) as Channel);
}

/** What the rules below need to know of the scopes that a store holds. */
export type StoreScopes = { readonly scopes: readonly string[]; readonly topics: boolean };

/**
 * Whether decided scope d meets store scope s: they are equal, or s is the channel of topic d and the connector
 * can hold topics, or d is the channel of topic s. The ledger's SQL function `due` is the same rule.
 */
export function meets(decided: string, stored: string, topics: boolean): boolean {
  return (
    decided === stored || (topics && channelOfTopic(decided) === stored) || channelOfTopic(stored) === decided
  );
}

/**
 * The names under which a store holds a decided scope: itself or, if the store knows only topics of the decided channel, each of
 * those. Empty: this store has nothing to hold for it.
 */
export function heldAs(decided: string, store: StoreScopes): string[] {
  const names = new Set<string>();
  for (const stored of store.scopes) {
    if (!meets(decided, stored, store.topics)) continue;
    names.add(channelOfTopic(stored) === decided ? stored : decided);
  }
  return [...names];
}

/** By which of the suppressed scopes this one is refused: `email` covers `email/newsletter`, never the reverse. */
export function coveredBy<Held>(suppressed: Readonly<Record<string, Held>>, scope: string): Held | undefined {
  const channel = channelOfTopic(scope);
  return (channel === undefined ? undefined : suppressed[channel]) ?? suppressed[scope];
}
