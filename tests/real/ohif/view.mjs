// Open studies in OHIF, open each result in them, and write down what the running viewer holds and shows.
// node view.mjs PLAN.json ; {address, out, studies: [{name, uid, hydrate}]}; playwright-core is found from $PLAYWRIGHT_FROM.
import { createRequire } from 'node:module';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';

const { chromium } = createRequire(`${process.env.PLAYWRIGHT_FROM}/`)('playwright-core');
const plan = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const FLAGS = [
  '--no-sandbox', '--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist',
  '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
];
const OURS = 9000; // our series' numbers begin here
const SETTLED_MS = 1500;

const context = await chromium.launchPersistentContext(`${plan.out}/profile`, {
  executablePath: process.env.CHROMIUM, headless: true, args: FLAGS, viewport: { width: 1400, height: 900 },
});
const page = context.pages()[0] ?? (await context.newPage());
page.setDefaultTimeout(90000);
let errors = [];
let complaints = [];
page.on('pageerror', (error) => errors.push(String(error)));
page.on('console', (line) => { if (line.type() === 'error') complaints.push(line.text().slice(0, 500)); });

const button = (name) => page.getByRole('button', { name, exact: true }).first();
const press = async (name, timeout) => button(name).click({ timeout }).then(() => true, () => false);
const pause = (ms) => page.waitForTimeout(ms);

async function start(study) {
  await page.goto(`${plan.address}/viewer?StudyInstanceUIDs=${study.uid}`);
  await page.waitForFunction(() => window.services?.displaySetService?.getActiveDisplaySets().length > 0, null, { timeout: 90000 });
  await page.locator('canvas').first().waitFor({ timeout: 90000 });
  await page.getByText('Skip all').first().click({ timeout: study.first ? 8000 : 300 }).catch(() => {});
  await pause(SETTLED_MS);
}

// Runs in the page: what there is to open.
function displaySets() {
  return window.services.displaySetService.getActiveDisplaySets().map((set) => ({
    id: set.displaySetInstanceUID, modality: set.Modality, number: Number(set.SeriesNumber ?? set.instances?.[0]?.SeriesNumber ?? 0),
    series: set.SeriesInstanceUID, instance: set.SOPInstanceUID ?? set.instances?.[0]?.SOPInstanceUID ?? set.instance?.SOPInstanceUID,
    description: set.SeriesDescription ?? set.label, unsupported: Boolean(set.unsupported),
  }));
}

// Runs in the page: how much of the largest canvas is not black, and the words of the viewports.
function shown() {
  const canvases = [...document.querySelectorAll('canvas')].filter((one) => one.width > 200 && one.height > 200 && one.offsetParent);
  const lit = canvases.map((canvas) => {
    const copy = document.createElement('canvas');
    copy.width = copy.height = 256;
    const pen = copy.getContext('2d', { willReadFrequently: true });
    pen.drawImage(canvas, 0, 0, 256, 256);
    const data = pen.getImageData(0, 0, 256, 256).data;
    let count = 0;
    for (let i = 0; i < data.length; i += 4) count += data[i + 3] > 0 && Math.max(data[i], data[i + 1], data[i + 2]) > 12;
    return count / 65536;
  });
  const panes = [...document.querySelectorAll('[data-cy="viewport-pane"], .viewport-wrapper, [data-cy="viewport-grid"]')];
  const outlines = [...document.querySelectorAll('svg.svg-layer path, svg.svg-layer polyline, svg.svg-layer line, svg.svg-layer circle')];
  return {
    canvases: canvases.length, lit: Math.max(0, ...lit), drawn: outlines.length, words: panes.map((pane) => pane.innerText).join('\n'),
    body: document.body.innerText,
  };
}

// Runs in the page: every voxel of a labelmap, slice by slice, with the position of the image it lies on.
function labelmap(id) {
  const { segmentationService } = window.services;
  const { cache, metaData } = window.cornerstone;
  const base64 = (bytes) => {
    let text = '';
    for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    return btoa(text);
  };
  const segmentation = segmentationService.getSegmentation(id);
  const viewport = window.services.viewportGridService.getActiveViewportId();
  const colour = (index) => {
    try { return Array.from(segmentationService.getSegmentColor(viewport, id, index)); } catch { return null; }
  };
  const slices = (segmentation.representationData.Labelmap?.imageIds ?? []).map((one) => {
    const image = cache.getImage(one);
    const plane = metaData.get('imagePlaneModule', image.referencedImageId);
    return {
      position: Array.from(plane.imagePositionPatient ?? []), rows: image.rows, columns: image.columns,
      voxels: base64(Uint8Array.from(image.voxelManager.getScalarData())),
    };
  });
  const segments = Object.values(segmentation.segments).filter(Boolean).map((segment) => ({
    index: segment.segmentIndex, label: segment.label, colour: colour(segment.segmentIndex),
    center: segment.cachedStats?.center?.world ?? segment.cachedStats?.namedStats?.center?.value ?? null,
  }));
  return { id, label: segmentation.label, slices, segments };
}

// Runs in the page: the marks of one report, and what has become a measurement of the viewer's own.
function report(id) {
  const set = window.services.displaySetService.getDisplaySetByUID(id);
  return {
    loaded: set.isLoaded, rehydratable: Boolean(set.isRehydratable),
    measurements: (set.measurements ?? []).map((one) => ({
      uid: one.TrackingUniqueIdentifier, label: one.TrackingIdentifier, loaded: one.loaded,
      values: (one.labels ?? []).map((text) => `${text.label}: ${text.value}`),
      coordinates: (one.coords ?? []).map((entry) => ({
        type: entry.GraphicType, image: entry.ReferencedSOPSequence?.ReferencedSOPInstanceUID,
        frame: entry.ReferencedSOPSequence?.ReferencedFrameNumber ?? null, points: Array.from(entry.GraphicData),
      })),
    })),
  };
}

// Runs in the page: where the viewer itself draws each mark of a report, in mm.
function annotations() {
  const all = window.cornerstoneTools?.annotation?.state?.getAllAnnotations?.() ?? [];
  return all.map((one) => {
    const data = one.data ?? {};
    const graphics = Object.values(data.renderableData ?? {}).flat(2);
    const points = graphics.length ? graphics : data.handles?.points ?? data.contour?.polyline ?? [];
    return {
      tool: one.metadata?.toolName, uid: data.TrackingUniqueIdentifier ?? one.annotationUID, image: one.metadata?.referencedImageId,
      points: points.map((point) => Array.from(point)),
    };
  });
}

// Runs in the page.
function tracked() {
  return window.services.measurementService.getMeasurements().map((one) => ({
    label: one.label, tool: one.toolName, image: one.SOPInstanceUID, points: (one.points ?? []).map((point) => Array.from(point ?? [])),
    text: one.displayText, data: JSON.stringify(one.data ?? {}).slice(0, 500),
  }));
}

async function open(set, study) {
  errors = [];
  complaints = [];
  await page.locator(`[id="thumbnail-${set.id}"]`).first().dblclick({ force: true, timeout: 60000 });
  if (set.modality === 'SEG' || set.modality === 'RTSTRUCT') await press('Yes', 30000);
  if (set.modality === 'SEG') {
    await page.waitForFunction((id) => window.services.segmentationService.getSegmentation(id) !== undefined, set.id, { timeout: 90000 });
  }
  if (set.modality === 'SR') {
    await page.waitForFunction((id) => window.services.displaySetService.getDisplaySetByUID(id).isLoaded !== false, set.id, { timeout: 60000 }).catch(() => {});
    if (study.hydrate) await press('Yes', 8000);
  }
  await page.waitForFunction(() => {
    const canvas = [...document.querySelectorAll('canvas')].filter((one) => one.width > 200 && one.offsetParent);
    return canvas.length > 0 || document.body.innerText.includes('Not verified');
  }, null, { timeout: 15000 }).catch(() => {});
  await pause(SETTLED_MS);
  if (set.modality === 'SEG') { // the picture is of a finding, the last segment
    await page.evaluate((id) => {
      const { segmentationService } = window.services;
      const last = Math.max(...Object.keys(segmentationService.getSegmentation(id).segments).map(Number));
      try { segmentationService.jumpToSegmentCenter(id, last); } catch { /* where it cannot, the picture stays where it is */ }
    }, set.id);
    await pause(SETTLED_MS);
  }
  let look = await page.evaluate(shown);
  for (let tries = 0; tries < 8 && look.lit < 0.01 && !look.words.includes('Not verified'); tries += 1) {
    await pause(1000);
    look = await page.evaluate(shown);
  }
  const seen = { ...set, ...look, asked: await button('Yes').isVisible().catch(() => false) };
  if (set.modality === 'SR') Object.assign(seen, { report: await page.evaluate(report, set.id), annotations: await page.evaluate(annotations), tracked: await page.evaluate(tracked) });
  await page.screenshot({ path: `${plan.out}/${study.name}-${set.modality.toLowerCase()}-${set.number}.png` });
  return Object.assign(seen, { errors, complaints });
}

async function read(id) {
  await page.waitForFunction((one) => Object.values(window.services.segmentationService.getSegmentation(one).segments).filter(Boolean).every(
    (segment) => segment.cachedStats?.center || segment.cachedStats?.namedStats?.center,
  ), id, { timeout: 15000 }).catch(() => {});
  return page.evaluate(labelmap, id);
}

async function visit(study) {
  const seen = { opened: [], segmentations: [] };
  try {
    await start(study).catch(() => start(study)); // 3.12 fails to start about once in twenty
    seen.sets = await page.evaluate(displaySets);
    // A parametric map changes the colours of all that is opened after it: by number it is the last but one.
    const ours = seen.sets.filter((set) => set.number >= OURS && !set.unsupported).sort((one, other) => one.number - other.number);
    for (const set of ours) {
      seen.opened.push(await open(set, study));
      if (set.modality === 'SEG') seen.segmentations.push(await read(set.id));
    }
  } catch (error) {
    seen.failure = String(error);
    await page.screenshot({ path: `${plan.out}/${study.name}-failure.png` }).catch(() => {});
  }
  return Object.assign(seen, { lastErrors: errors, lastComplaints: complaints });
}

mkdirSync(plan.out, { recursive: true });
const result = {};
for (const [index, study] of plan.studies.entries()) result[study.name] = await visit({ ...study, first: index === 0 });
writeFileSync(`${plan.out}/seen.json`, JSON.stringify(result));
await context.close();
