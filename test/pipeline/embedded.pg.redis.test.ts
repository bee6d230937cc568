import { describePipeline } from './describe-pipeline.ts';
import { startSystem } from './system.ts';

describePipeline('the embedded stream', () => startSystem());
