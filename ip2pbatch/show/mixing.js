// A strength without the model, as ip2pbatch/pictures/mixing.py does it: light is mixed (IEC 61966-2-1), where CSS's
// opacity would mix numbers. The report has this text within its one file, the studio imports it.
const light = (code) => (code <= 0.04045 ? code / 12.92 : ((code + 0.055) / 1.055) ** 2.4);
const code = (value) => (value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055);
const lights = Array.from({ length: 256 }, (_, level) => light(level / 255));

async function pixels(src, width, height) {
  const loaded = Object.assign(new Image(), { src });
  await loaded.decode();
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: width ?? loaded.naturalWidth, height: height ?? loaded.naturalHeight });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(loaded, 0, 0, canvas.width, canvas.height);
  return pen.getImageData(0, 0, canvas.width, canvas.height);
}

// The picture at `share` (0 to 1) of its strength over the photo, as ImageData; both are addresses. Fails where the
// browser hands out no pixels of them.
export async function mixed(after, before, share) {
  const top = await pixels(after);
  const under = await pixels(before, top.width, top.height);
  const table = new Uint8ClampedArray(65536);
  for (let pair = 0; pair < 65536; pair += 1) {
    table[pair] = 255 * code((1 - share) * lights[pair >> 8] + share * lights[pair & 255]);
  }
  for (let place = 0; place < top.data.length; place += 1) {
    if (place % 4 !== 3) top.data[place] = table[(under.data[place] << 8) | top.data[place]];
  }
  return top;
}
