"""Image sets: their interface, CIFAR, digits, folders of images, augmentation in batches."""
