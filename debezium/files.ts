// Reads what lies beside this file, filled in or parsed.
import { readFileSync } from 'node:fs';

const read = (name: string): string => readFileSync(new URL(name, import.meta.url), 'utf8');

/** The topics that decisions and heartbeats travel in, and the one that keeps what could not be read. */
export const DECISIONS_TOPIC = 'abide.public.decisions';
export const HEARTBEAT_TOPIC = 'abide.public.abide_heartbeat';
export const PARKED_TOPIC = 'abide.parked';

export type TopicDefinition = {
  readonly partitions: number;
  readonly config: Readonly<Record<string, string>>;
};

export const readTopics = (): ReadonlyMap<string, TopicDefinition> =>
  new Map(Object.entries(JSON.parse(read('topics.json')) as Record<string, TopicDefinition>));

/** The topics in which Connect keeps what is its own, if its properties are ours. */
export const readTopicsOfConnect = (): readonly string[] =>
  Array.from(read('connect.properties').matchAll(/^\w+\.storage\.topic=(.+)$/gm), ([, topic]) => topic!);

/** The text of a properties file with each ${name} replaced. Throws for a name that has no value. */
export function fillProperties(
  file: 'broker.properties' | 'connect.properties',
  values: Readonly<Record<string, string | number>>,
): string {
  return read(file).replace(/^([^#\n]*)$/gm, (line) =>
    line.replace(/\$\{(\w+)\}/g, (_, name: string) => {
      const value = values[name];
      if (value === undefined) throw new Error(`${file} names ${name}, which has no value`);
      return escapeProperty(String(value));
    }),
  );
}

/** Java reads a properties file as Latin-1, whatever the folder's name is in, and a backslash as the start of an escape. */
const escapeProperty = (value: string): string =>
  value.replace(/[^ -~]|\\/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`);
