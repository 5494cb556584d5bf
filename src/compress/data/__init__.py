"""Image sets: what one must offer, CIFAR, digits, folders of images, augmentation in batches."""
