// `npm run openapi`: writes the documents that are committed, after a resource changed.
import { writeFileSync } from 'node:fs';
import { servedVersions } from '../version.ts';
import { VERSIONS } from '../versions.ts';
import { toOpenApi, toText } from './openapi.ts';

for (const name of servedVersions(VERSIONS))
  writeFileSync(`docs/openapi-${name}.json`, toText(toOpenApi(name, VERSIONS)));
