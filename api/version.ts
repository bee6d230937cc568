// What a version of the API is, and what each of its answers says of its end.
import type { Instant } from '../suppression/decision.ts';
import { NOTHING_DECLARED } from '../suppression/scope.ts';
import type { Deps } from './deps.ts';
import type { Operation, Routes } from './operation.ts';

type AddResource = (routes: Routes, deps: Deps) => void;

export type Version = {
  /** None: it is retired, and anybody who still asks it is told so. */
  readonly resources: readonly AddResource[];
} & (
  | {
      /** From when on nobody should begin to use it; may lie ahead. */
      readonly deprecatedAt: Instant;
      /** From when on it may be gone; not before it is deprecated. */
      readonly sunsetAt?: Instant | undefined;
      /** What says why, and how to move on: a URL, or a path of ours. */
      readonly link: string;
    }
  | { readonly deprecatedAt?: undefined; readonly sunsetAt?: undefined; readonly link?: undefined }
);

/** By name (`v1`), the oldest first. */
export type Versions = Readonly<Record<string, Version>>;

/** The version that a path belongs to. */
export function versionOf(path: string, versions: Versions): string | undefined {
  const name = /^\/(v\d+)(?:\/|$)/.exec(path)?.[1];
  return name !== undefined && Object.hasOwn(versions, name) ? name : undefined;
}

export const isRetired = ({ resources }: Version): boolean => resources.length === 0;

/** `sunset`: it may be gone by now, and is still served. */
export type VersionState = 'current' | 'deprecated' | 'sunset' | 'retired';

export function stateOf(version: Version, now: Date): VersionState {
  const isPast = (instant: Instant | undefined): boolean =>
    instant !== undefined && Date.parse(instant) <= now.getTime();
  if (isRetired(version)) return 'retired';
  if (isPast(version.sunsetAt)) return 'sunset';
  return isPast(version.deprecatedAt) ? 'deprecated' : 'current';
}

/** Those that are served, the oldest first. */
export const servedVersions = (versions: Versions): string[] =>
  Object.keys(versions).filter((name) => !isRetired(versions[name]!));

export const newestOf = (versions: Versions): string => servedVersions(versions).at(-1)!;

/** Where a version's document and its page are. */
export const documentOf = (name: string): string => `/${name}/openapi.json`;
export const pageOf = (name: string): string => `/docs/${name}`;

/** The version after this one that is served. */
export const successorOf = (name: string, versions: Versions): string | undefined => {
  const names = Object.keys(versions);
  return servedVersions(versions).find((one) => names.indexOf(one) > names.indexOf(name));
};

/** Enough for resources that are described and serve nothing. */
export const DESCRIBED = { declared: NOTHING_DECLARED } as Deps;

/** What a version's resources say of themselves when nothing is to be served: the handlers are made and never called. */
export function operationsIn({ resources }: Version): Operation[] {
  const operations: Operation[] = [];
  const routes: Routes = { add: (operation) => operations.push(operation) };
  for (const add of resources) add(routes, DESCRIBED);
  return operations;
}

/**
 * The headers of every answer of a deprecated version: RFC 9745, RFC 8594 and links to what says more (RFC 8288). `successor` is
 * where the same is found in the next version.
 */
export function endOf(
  { deprecatedAt, sunsetAt, link }: Version,
  successor: string | undefined,
): { readonly headers: Readonly<Record<string, string>>; readonly links: readonly string[] } {
  if (deprecatedAt === undefined) return { headers: {}, links: [] };
  return {
    headers: {
      Deprecation: `@${Math.floor(Date.parse(deprecatedAt) / 1000)}`,
      ...(sunsetAt === undefined ? {} : { Sunset: new Date(sunsetAt).toUTCString() }),
    },
    links: [
      `<${link}>; rel="deprecation"`,
      ...(sunsetAt === undefined ? [] : [`<${link}>; rel="sunset"`]),
      ...(successor === undefined ? [] : [`<${successor}>; rel="successor-version"`]),
    ],
  };
}
